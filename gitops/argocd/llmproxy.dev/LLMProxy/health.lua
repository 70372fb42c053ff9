-- Health of an LLMProxy for Argo CD. Its status follows kstatus; only the pause is Argo CD's own word, Suspended.
local hs = {status = "Progressing", message = "the operator has not seen it yet"}

local function condition(kind)
  for _, item in ipairs((obj.status or {}).conditions or {}) do
    if item.type == kind then
      return item
    end
  end
  return {}
end

local function is(kind)
  return condition(kind).status == "True"
end

if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if is("Paused") then
  hs.status = "Suspended"
  hs.message = condition("Paused").message
  return hs
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  hs.message = "the operator has not seen the last change yet"
  return hs
end
if is("Stalled") then
  hs.status = "Degraded"
  hs.message = condition("Stalled").message
  return hs
end
if is("Ready") then
  hs.status = "Healthy"
end
hs.message = condition("Ready").message
return hs
