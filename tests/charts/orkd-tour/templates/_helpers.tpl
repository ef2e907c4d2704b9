{{- define "tour.name" -}}
{{ .Release.Name }}
{{- end }}
{{- define "tour.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "tour.pod" -}}
metadata:
  labels: {app.kubernetes.io/instance: {{ .root.Release.Name }}, part: {{ .part }}}
  # Variables are read when a container starts: a change of the map is to start new ones.
  annotations: {checksum/config: {{ .root.Values.greeting | sha256sum }}}
spec:
  terminationGracePeriodSeconds: 1
  serviceAccountName: {{ include "tour.name" .root }}
  containers:
  - name: main
    image: {{ .root.Values.image }}
    imagePullPolicy: IfNotPresent
    command: {{ .command }}
    resources: {limits: {cpu: 100m, memory: 32Mi}}
    envFrom:
    - configMapRef: {name: {{ include "tour.name" .root }}}
{{- end }}
