{{/* The name of every object: the release's, if that says what it is. At most 63 octets, with room for a suffix. */}}
{{- define "headless-dns.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Where it listens encrypted: a list of what has a name, its Pods' port, the Service's port and the protocol of both. */}}
{{- define "headless-dns.encrypted" -}}
{{- $known := dict
  "tls" (dict "pod" 8853 "service" 853 "protocol" "TCP")
  "https" (dict "pod" 8443 "service" 443 "protocol" "TCP")
  "quic" (dict "pod" 8853 "service" 853 "protocol" "UDP") -}}
{{- $listeners := list -}}
{{- if .Values.tls.secretName -}}
{{- range .Values.tls.over -}}
{{- $listeners = append $listeners (merge (dict "over" .) (get $known .)) -}}
{{- end -}}
{{- end -}}
{{- toJson $listeners -}}
{{- end -}}

{{/* What the Pods of this release are known by. It never changes: a Deployment's selector cannot. */}}
{{- define "headless-dns.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "headless-dns.labels" -}}
{{ include "headless-dns.selector" . }}
app.kubernetes.io/component: dns
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Name, namespace and labels of an object that has a namespace. */}}
{{- define "headless-dns.metadata" -}}
name: {{ include "headless-dns.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "headless-dns.labels" . | nindent 2 }}
{{- end -}}
