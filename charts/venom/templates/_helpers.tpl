{{/* Name of the release's objects: the release's name if it contains "venom", or else followed by "-venom". */}}
{{- define "venom.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{/* Image of the operator and of the node pods. */}}
{{- define "venom.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* Labels that never change, for selectors. */}}
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

{{/* Labels of cluster-wide objects that belong to no single release. */}}
{{- define "venom.shared-labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- end }}

{{/* Labels and annotations of an object. The argument is a list: the root, and the object's labels as YAML. They take
precedence over the common ones. */}}
{{- define "venom.metadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- toYaml (merge (fromYaml (index . 1)) $root.Values.commonLabels) | nindent 2 }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The node pods of all Organisms, for a NetworkPolicy. */}}
{{- define "venom.bodies" -}}
- namespaceSelector: {}
  podSelector:
    matchExpressions:
    - {key: genesis.venom.dev/organism, operator: Exists}
{{- end }}

{{/* Permissions of the operator. The e2e suite checks that they suffice. */}}
{{- define "venom.rules" -}}
# patch: sets a finalizer while Services of others are changed by a quarantine, and removes it. The operator never writes a
# spec and never deletes an Organism.
- apiGroups: [genesis.venom.dev]
  resources: [organisms]
  verbs: [get, list, watch, patch]
# create: the Genome of an Organism without a genomeRef. patch: its owner, after kubectl delete --cascade=orphan; delete:
# as for bodies below. update is not called: it tells the policy venom-injector that more than injections may be patched.
- apiGroups: [genesis.venom.dev]
  resources: [genomes]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [genesis.venom.dev]
  resources: [organisms/status, genomes/status]
  verbs: [patch]
# Ledgers. update: replaces the head; delete: merged and pruned segments; patch: their owner, when
# spec.ledger.onDelete changes, and the CA certificates of a body.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, update, patch, delete]
# No resource, but the right that the policy venom-ledger asks of those who write ledgers.
- apiGroups: [genesis.venom.dev]
  resources: [organisms/ledger]
  verbs: [update, delete]
# Bodies. Their objects are garbage-collected with the Organism that owns them. The operator deletes only the
# autoscaler, when the Organism disables it. For the others, delete is what the admission plugin
# OwnerReferencesPermissionEnforcement (OpenShift) requires to restore the ownerReference of an object that lost it. The
# plugin requires `update` on organisms/finalizers for references that block the deletion of the Organism; ours do not.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# update: a quarantine detaches the Services of others that select the pods, and restores them.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# update: the response limits an autoscaler that was handed over with an adopted workload, and restores it.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, update, patch, delete]
# Adopted workloads. Nothing of them is written.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [list, watch]
# get: verifies the pod that requests a certificate. list: shows why pods are not ready, and which ones a quarantine would
# cut off. watch: what happens to them is sensed.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get]
# Addresses of the nodes.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# patch: increments the count of a repeated Event.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
