{{/* The name of all that belongs to this release: the release's own where that says venom already. */}}
{{- define "venom.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{/* The operator's, and that of the node pods. */}}
{{- define "venom.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Labels that never change: selectors are made of them. */}}
{{- define "venom.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "venom.labels" -}}
{{ include "venom.selector" . }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Labels of what is no single release's. */}}
{{- define "venom.shared-labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- end }}

{{/* What the operator does, verb by verb; the e2e suite watches that it is enough. */}}
{{- define "venom.rules" -}}
# patch: the finalizer. Specs are never written, and only the user deletes an Organism.
- apiGroups: [genesis.venom.dev]
  resources: [organisms]
  verbs: [get, list, watch, patch]
# create: the Genome of an Organism that names none.
- apiGroups: [genesis.venom.dev]
  resources: [genomes]
  verbs: [get, list, watch, create]
- apiGroups: [genesis.venom.dev]
  resources: [organisms/status, genomes/status]
  verbs: [patch]
# Ledgers. update: the head, replaced as a whole; deletecollection: all of a ledger, with its Organism. patch: the
# authority's certificate of a body.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, update, patch, delete, deletecollection]
# Bodies. They are owned by their Organism, with which the cluster deletes them; an autoscaler also goes when its
# Organism wants none.
- apiGroups: [""]
  resources: [serviceaccounts, services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
# Whose pod asks for a certificate.
- apiGroups: [""]
  resources: [pods]
  verbs: [get]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get]
# Where nodes are.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# patch: an Event that repeats is counted in the first one.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
