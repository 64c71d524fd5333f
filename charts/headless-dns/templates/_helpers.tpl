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

{{/* Refuses a setting that is no option of the server, or that another value sets. tests/it/reference.rs compares both lists
with the options. */}}
{{- define "headless-dns.settings" -}}
{{- $set := dict
  "admin" "the value addresses"
  "listen" "the value addresses"
  "listen-https" "the value tls.over"
  "listen-quic" "the value tls.over"
  "listen-tls" "the value tls.over"
  "namespace" "the value namespaced"
  "nsid" "the name of the Pod"
  "service" "the name of the release"
  "tls-cert" "the value tls.secretName"
  "tls-key" "the value tls.secretName" -}}
{{- $options := list
  "admin-api" "allow" "allow-unreadable" "client-prefix-v6" "context" "demo"
  "endpoint-pod-names" "endpoints-source" "explain-to" "external-name-upstream" "forward" "forward-for"
  "kubeconfig" "lame-duck" "log" "log-format" "manifests" "max-manifest-size" "negative-ttl" "not-allowed"
  "ns-address" "ordinals" "pod-records" "ptr" "query-log" "query-log-format" "query-log-sample" "reverse" "selector"
  "simulate" "snapshot" "snapshot-max-age" "takeover" "tcp-connections" "tcp-connections-per-client"
  "tcp-idle" "ttl" "workers" "zone" "zone-alias" -}}
{{- $renamed := dict "upstream" "external-name-upstream" -}}
{{- range $name, $_ := .Values.settings -}}
{{- if hasKey $set $name -}}
{{- fail (printf "settings.%s: the chart sets this option from %s" $name (get $set $name)) -}}
{{- else if hasKey $renamed $name -}}
{{- fail (printf "settings.%s: the option was renamed: write %s" $name (get $renamed $name)) -}}
{{- else if not (has $name $options) -}}
{{- fail (printf "settings.%s: there is no such option; docs/configuration.md lists the options" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
