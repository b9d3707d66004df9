{{- define "imgo.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "imgo.secret" -}}
{{- if .Values.secret.existing -}}
{{- .Values.secret.existing -}}
{{- else -}}
{{- include "imgo.name" . -}}
{{- end -}}
{{- end -}}

{{/* What every pod of the release has, and nothing of another one. */}}
{{- define "imgo.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "imgo.labels" -}}
{{ include "imgo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The pod of a role: dict "root" $ "role" "comet". */}}
{{- define "imgo.pod" -}}
{{- $root := .root -}}
{{- $role := .role -}}
{{- $v := index $root.Values $role -}}
{{- /* Endpoints take a moment to forget a pod: serve on during that. */ -}}
{{- $linger := 5 -}}
metadata:
  labels:
    {{- include "imgo.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $role }}
  annotations:
    # A change of settings or secrets is a rolling restart.
    checksum/settings: {{ printf "%s%s" (toYaml $root.Values.settings) (toYaml $root.Values.kafka) | sha256sum }}
    checksum/secret: {{ toYaml $root.Values.secret | sha256sum }}
    {{- with $root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  # Variables of services begin with IMGO_ where the release is called imgo.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add $linger $v.shutdownSeconds 10 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "imgo.selector" $root | nindent 16 }}
                app.kubernetes.io/component: {{ $role }}
        - weight: 50
          podAffinityTerm:
            topologyKey: topology.kubernetes.io/zone
            labelSelector:
              matchLabels:
                {{- include "imgo.selector" $root | nindent 16 }}
                app.kubernetes.io/component: {{ $role }}
  containers:
    - name: imgo
      image: {{ printf "%s:%s" $root.Values.image.repository (default $root.Chart.AppVersion $root.Values.image.tag) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [serve]
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      envFrom:
        - configMapRef:
            name: {{ include "imgo.name" $root }}
        - secretRef:
            name: {{ include "imgo.secret" $root }}
      env:
        - name: IMGO_ROLES
          value: {{ $role }}
        - name: IMGO_SHUTDOWN_TIMEOUT
          value: {{ printf "%vs" $v.shutdownSeconds }}
        {{- if eq $role "comet" }}
        {{- if $v.hostPorts }}
        - name: HOST_IP
          valueFrom:
            fieldRef:
              fieldPath: status.hostIP
        {{- range $v.clientPorts }}
        - name: IMGO_CLUSTER_{{ upper .name }}_ADDRESS
          value: {{ with .scheme }}{{ . }}{{ if $root.Values.tls.clients }}s{{ end }}://{{ end }}$(HOST_IP):{{ .port }}
        {{- end }}
        {{- end }}
        {{- with $v.zone }}
        - name: IMGO_CLUSTER_ZONE
          value: {{ . | quote }}
        {{- end }}
        {{- if $root.Values.tls.clients }}
        - name: IMGO_COMET_TLS_CERT
          value: /etc/imgo/clients/tls.crt
        - name: IMGO_COMET_TLS_KEY
          value: /etc/imgo/clients/tls.key
        {{- end }}
        {{- end }}
        {{- if $root.Values.tls.nodes }}
        - name: IMGO_CLUSTER_TLS_CERT
          value: /etc/imgo/nodes/tls.crt
        - name: IMGO_CLUSTER_TLS_KEY
          value: /etc/imgo/nodes/tls.key
        - name: IMGO_CLUSTER_TLS_CA
          value: /etc/imgo/nodes/ca.crt
        {{- end }}
        {{- range $name, $value := $v.settings }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
      ports:
        - {name: http, containerPort: 7172}
        - {name: rpc, containerPort: 7170}
        - {name: gossip, containerPort: 7946}
        - {name: gossip-udp, containerPort: 7946, protocol: UDP}
        {{- if eq $role "comet" }}
        {{- range $v.clientPorts }}
        - {name: {{ .name }}, containerPort: {{ .port }}{{ if $v.hostPorts }}, hostPort: {{ .port }}{{ end }}}
        {{- end }}
        {{- end }}
      # HTTP answers as soon as its port is bound. The roles start after that: a node
      # waits for what is missing, such as Kafka, without a limit.
      startupProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 180
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 6
      # A router that reads back a lost disk is alive and not ready, for minutes.
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      lifecycle:
        preStop:
          sleep: {seconds: {{ $linger }}}
      resources:
        {{- toYaml $v.resources | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /data}
        {{- if $root.Values.tls.nodes }}
        - {name: nodes-tls, mountPath: /etc/imgo/nodes, readOnly: true}
        {{- end }}
        {{- if and (eq $role "comet") $root.Values.tls.clients }}
        - {name: clients-tls, mountPath: /etc/imgo/clients, readOnly: true}
        {{- end }}
  volumes:
    {{- if ne $role "router" }}
    # What it has, it has from Kafka.
    - name: data
      emptyDir: {}
    {{- end }}
    {{- if $root.Values.tls.nodes }}
    - name: nodes-tls
      secret:
        secretName: {{ $root.Values.tls.nodes }}
    {{- end }}
    {{- if and (eq $role "comet") $root.Values.tls.clients }}
    - name: clients-tls
      secret:
        secretName: {{ $root.Values.tls.clients }}
    {{- end }}
{{- end -}}
