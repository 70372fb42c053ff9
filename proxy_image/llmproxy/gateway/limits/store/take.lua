-- All limits of a proxy's requests in one step, on the store's clock: count what pods report, admit what fits all limits.
--
-- A window is a hash: amounts by bucket number, `used` (their sum) and `at` (the bucket it was brought to). Numbers are
-- those of `window.py`: the current bucket and the SPAN before it count, and so do the few ahead. SPAN is one window
-- of 256 buckets, one bucket of guard, and two in which a lease of 2/256 of the window may still be used; a longer
-- lease is charged ahead by what it is longer. The clock never goes back: when the host's does, it goes on from there.
-- Bucket numbers are doubles: now * 256 is above 2^53, so `protocol.buckets_at` computes them in the same way.
--
-- KEYS  clock, pods, then each window, then each slots
-- ARGV  1: {pod, run, hold_us, flag, {{limit, seconds, by_token, of the proxy}..}, {{limit, held}..},
--           {{window, number or 0 for now, amount}..}, {{{window..}, {slots..}, n, tokens, first_tokens, lease_us}..},
--           in turn: nobody passes one that waits for a limit of the proxy, {pod that the joining one knew..}, when it
--           was sent, by the store's clock, or 0}
-- reply {status, now_us, {pod..}, {{n, tokens, wait_us, blocker}..}, {used..}, {held by others..}}
--       (MessagePack both ways; indexes count from 1; blocker: the window, or the slots after all windows)
local BUCKETS, SPAN, AHEAD, USED_LATER = 256, 259, 8, 2
local LIVES_US, BEATS_US, STALE_US = 5000000, 1500000, 100000
local OK, WARMING, UNKNOWN, STALE = 0, 1, 2, 3
local OFFLINE, JOINING, ONLINE = 0, 1, 2

local msg = cmsgpack.unpack(ARGV[1])
local pod, run, hold_us, flag, windows, slots, changes, asks, in_turn, expected, sent_us = unpack(msg, 1, 11)

local function text(number) return string.format('%.0f', number) end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local clock = redis.call('HMGET', KEYS[1], 'last', 'shift', 'run', 'born')
local last, shift = tonumber(clock[1]) or 0, tonumber(clock[2]) or 0
now = now + shift
if now < last then
  shift = shift + last - now
  now = last
end
local born = tonumber(clock[4])
if clock[3] ~= run then -- empty, or another process with who knows which of our counts
  born = now
end
redis.call('HSET', KEYS[1], 'last', text(now), 'shift', text(shift), 'run', run, 'born', text(born))
redis.call('PEXPIRE', KEYS[1], math.max(3600000, math.ceil(hold_us / 500))) -- outlives every window
local warming = now - born < hold_us
-- Lay here while this server stood still, or at its pod while that did: nobody waits for it any more. Nothing is taken.
local stale = sent_us > 0 and now - sent_us > STALE_US and (flag == 'take' or flag == 'join')
if stale then changes, asks, expected = {}, {}, {} end

-- Members. A pod's entry is the time of its last call, in ms, times four, plus its state. A pod that is not online, or
-- that is silent longer than a beat, may admit its quota by itself: no other pod may have that. With its first take a
-- pod has reported the last of what it admitted so.
for _, id in ipairs(expected) do redis.call('HSETNX', KEYS[2], id, text(math.floor(now / 1000) * 4 + OFFLINE)) end
local entries = redis.call('HGETALL', KEYS[2])
local there = {}
local ids, count, offline, known = {}, 0, 0, false
for i = 1, #entries, 2 do
  local entry = tonumber(entries[i + 1])
  if entries[i] == pod then
    known = entry % 4 ~= OFFLINE and now - entry * 250 < LIVES_US
  elseif now - entry * 250 < LIVES_US then
    there[entries[i]] = true
    count = count + 1
    ids[count] = entries[i]
    if entry % 4 ~= ONLINE or now - entry * 250 > BEATS_US then offline = offline + 1 end
  else
    redis.call('HDEL', KEYS[2], entries[i])
  end
end
if flag == 'bye' then
  redis.call('HDEL', KEYS[2], pod)
elseif not stale then
  count = count + 1
  ids[count] = pod
  local state = OFFLINE
  if flag == 'join' and not warming then state = JOINING end
  if flag == 'take' and known and not warming then state = ONLINE end
  redis.call('HSET', KEYS[2], pod, text(math.floor(now / 1000) * 4 + state))
  redis.call('PEXPIRE', KEYS[2], 3600000)
end
local status = OK
if stale then
  status = STALE
elseif warming then
  status = WARMING
elseif flag ~= 'join' and flag ~= 'bye' and not known then
  status = UNKNOWN
end

-- How much of a limit the pods that are online may use.
local function room(limit) return limit - math.min(limit, offline * math.ceil(limit / math.max(1, count))) end

-- Bring every window to now.
for w, window in ipairs(windows) do
  local key = KEYS[2 + w]
  local got = redis.call('HMGET', key, 'at', 'used')
  local current = math.floor(now * BUCKETS / (window[2] * 1000000))
  local at, used = tonumber(got[1]) or current, tonumber(got[2]) or 0
  if used > 0 and current - at > SPAN + AHEAD then
    redis.call('DEL', key)
    used = 0
  elseif used > 0 and current > at then
    local left = {}
    for number = at - SPAN, current - SPAN - 1 do left[#left + 1] = text(number) end
    local gone = {}
    for i, amount in ipairs(redis.call('HMGET', key, unpack(left))) do
      if amount then
        used = used - amount
        gone[#gone + 1] = left[i]
      end
    end
    if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  end
  windows[w] = {limit = window[1], tokens = window[3], seconds = window[2], proxy = window[4], key = key, at = current, used = used,
    room = room(window[1])}
end

-- Count what is reported. Also by a pod that may not ask: what it used is used.
for _, change in ipairs(changes) do
  local window, number, amount = windows[change[1]], change[2], change[3]
  if number == 0 then number = window.at end
  number = math.min(number, window.at + AHEAD)
  if number >= window.at - SPAN and not (warming and amount < 0) then
    if amount < 0 then
      local there = tonumber(redis.call('HGET', window.key, text(number))) or 0
      amount = -math.min(-amount, there)
    end
    if amount ~= 0 then
      redis.call('HINCRBY', window.key, text(number), amount)
      window.used = window.used + amount
    end
  end
end
for s, slot in ipairs(slots) do
  local key = KEYS[2 + #windows + s]
  local others = 0
  local held = redis.call('HGETALL', key)
  for i = 1, #held, 2 do
    if held[i] ~= pod then
      if not there[held[i]] then redis.call('HDEL', key, held[i]) else others = others + held[i + 1] end
    end
  end
  slots[s] = {limit = slot[1], own = slot[2], others = others, key = key, room = room(slot[1])}
end

-- How long until `cost` fits, if nothing else came.
local function wait_us(window, cost)
  local need = window.used + cost - window.room
  if cost > window.room then return 100000 end -- others are offline; not for long
  local numbers = {}
  for number = window.at - SPAN, window.at + AHEAD do numbers[#numbers + 1] = text(number) end
  for i, amount in ipairs(redis.call('HMGET', window.key, unpack(numbers))) do
    need = need - (amount or 0)
    if need <= 0 then
      return math.max(1, math.ceil((tonumber(numbers[i]) + SPAN + 1) * window.seconds * 1000000 / BUCKETS - now))
    end
  end
  return 100000
end

local function blocked(ask)
  local wait, by = 0, 0
  for _, w in ipairs(ask[1]) do
    local window = windows[w]
    local cost = window.tokens and math.min(ask[5], window.limit) or 1
    if window.used + cost > window.room then
      local found = wait_us(window, cost)
      if found > wait then wait, by = found, w end
    end
  end
  for _, s in ipairs(ask[2]) do
    if by == 0 and slots[s].own + slots[s].others + 1 > slots[s].room then by = #windows + s end
  end
  return by, wait
end

local function admit(ask)
  local n, tokens = ask[3], ask[4]
  for _, w in ipairs(ask[1]) do
    local free = windows[w].room - windows[w].used
    if windows[w].tokens then
      if n > 1 then tokens = math.min(tokens, free) end
    else
      n = math.min(n, free)
    end
  end
  for _, s in ipairs(ask[2]) do n = math.min(n, slots[s].room - slots[s].own - slots[s].others) end
  if ask[3] > 1 and n == 1 then tokens = math.min(tokens, ask[5]) end
  for _, w in ipairs(ask[1]) do
    local window = windows[w]
    local amount = window.tokens and math.min(tokens, window.limit) or n
    local later = math.max(0, math.ceil(ask[6] * BUCKETS / (window.seconds * 1000000)) - USED_LATER)
    if amount > 0 then redis.call('HINCRBY', window.key, text(window.at + math.min(later, AHEAD)), amount) end
    window.used = window.used + amount
  end
  for _, s in ipairs(ask[2]) do slots[s].own = slots[s].own + n end
  return {n, tokens, 0, 0}
end

local function counts(ask, window)
  for _, w in ipairs(ask[1]) do
    if w == window then return true end
  end
  return false
end

local results = {}
if status == OK then
  local stop, stop_us
  for i, ask in ipairs(asks) do
    local by, wait = 0, 0
    if stop and counts(ask, stop) then by, wait = stop, stop_us end
    if by == 0 then by, wait = blocked(ask) end
    if by == 0 then results[i] = admit(ask) else results[i] = {0, 0, wait, by} end
    if in_turn and windows[by] and windows[by].proxy then stop, stop_us = by, wait end
  end
end

-- Write the sums.
local used, others = {}, {}
for w, window in ipairs(windows) do
  redis.call('HSET', window.key, 'at', text(window.at), 'used', text(window.used))
  redis.call('PEXPIRE', window.key, window.seconds * 2000)
  used[w] = window.used
end
for s, slot in ipairs(slots) do
  if flag == 'bye' then
    redis.call('HDEL', slot.key, pod)
  else
    redis.call('HSET', slot.key, pod, slot.own)
    redis.call('PEXPIRE', slot.key, 3600000)
  end
  others[s] = slot.others
end
return cmsgpack.pack({status, now, ids, results, used, others})
