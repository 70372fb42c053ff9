{{- define "llmproxy-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "llmproxy-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 55 | trimSuffix "-" }}
{{- else if contains (include "llmproxy-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 55 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "llmproxy-operator.name" .) | trunc 55 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "llmproxy-operator.selector" -}}
app.kubernetes.io/name: {{ include "llmproxy-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "llmproxy-operator.labels" -}}
{{ include "llmproxy-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "llmproxy-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "llmproxy-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "llmproxy-operator.image" -}}
{{- include "llmproxy-operator.reference" (list .Values.image .Chart.AppVersion) }}
{{- end }}

{{- define "llmproxy-operator.proxyImage" -}}
{{- include "llmproxy-operator.reference" (list .Values.proxyImage .Chart.AppVersion) }}
{{- end }}

{{- /* An image by digest, else by tag, else by the chart's appVersion. */ -}}
{{- define "llmproxy-operator.reference" -}}
{{- $image := index . 0 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) }}
{{- end }}
{{- end }}

{{- /* What the operator may do where it looks after LLMProxies. */ -}}
{{- define "llmproxy-operator.rules" -}}
- apiGroups: [llmproxy.dev]
  resources: [llmproxies]
  verbs: [get, list, watch]
- apiGroups: [llmproxy.dev]
  resources: [llmproxies/status]
  verbs: [patch]
# Owner references with blockOwnerDeletion need it where that is enforced (OpenShift).
- apiGroups: [llmproxy.dev]
  resources: [llmproxies/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
# Read by name, for the digest that rolls pods when a key changes; written only for NAME-peers and
# NAME-control. Never listed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}
