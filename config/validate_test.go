package config_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"imgo/config"
)

func TestWhatIsRefused(t *testing.T) {
	key := "backend:0123456789abcdef"
	for name, test := range map[string]struct {
		flags map[string][]string
		want  []string
	}{
		"http beyond loopback": {map[string][]string{"http.listen": {"0.0.0.0:7172"}},
			[]string{"--http:", "http.listen", "beyond loopback", "IMGO_HTTP_API_KEYS", "127.0.0.1:7172"}},
		"http everywhere": {map[string][]string{"http.listen": {":7172"}}, []string{"http.listen", "API key"}},
		"http by name":    {map[string][]string{"http.listen": {"myhost:7172"}}, []string{"http.listen", "API key"}},
		"none beyond loopback": {map[string][]string{"auth.mode": {"none"}},
			[]string{"--auth-mode:", "auth.mode", "comet.tcp and comet.ws", "--tcp 127.0.0.1:8080 --ws 127.0.0.1:8090"}},
		"none and http": {map[string][]string{"auth.mode": {"none"}, "comet.tcp": {"[::1]:1"}, "comet.ws": {"off"},
			"http.listen": {":9"}, "http.api_keys": {key}}, []string{"auth.mode", "http.listen", "--http 127.0.0.1:9"}},
		"none with JWT": {map[string][]string{"auth.mode": {"none"}, "comet.tcp": {"localhost:1"}, "comet.ws": {"off"},
			"auth.jwt_secret": {"0123456789abcdef0123456789abcdef"}}, []string{"auth.mode", "JWT"}},
		"unknown mode":   {map[string][]string{"auth.mode": {"maybe"}}, []string{"auth.mode", `"maybe"`, "token, none"}},
		"no port":        {map[string][]string{"comet.tcp": {"127.0.0.1"}}, []string{"comet.tcp", "host:port"}},
		"port too large": {map[string][]string{"comet.ws": {":70000"}}, []string{"comet.ws", "65535"}},
		"port negative":  {map[string][]string{"comet.ws": {":-1"}}, []string{"comet.ws", "65535"}},
		"same port": {map[string][]string{"comet.tcp": {":9000"}, "comet.ws": {"127.0.0.1:9000"}},
			[]string{"comet.ws", "9000", "comet.tcp"}},
		"trusted origin": {map[string][]string{"http.trusted_origins": {"console.example.com"}},
			[]string{"http.trusted_origins", "https://console.example.com"}},
		"both off":    {map[string][]string{"comet.tcp": {"off"}, "comet.ws": {"off"}}, []string{"comet.tcp", "off"}},
		"retention":   {map[string][]string{"kept.retention": {"24h"}}, []string{"kept.retention", "kept.max_ttl (168h)", "raise it"}},
		"ttl":         {map[string][]string{"kept.ttl": {"200h"}}, []string{"kept.ttl", "kept.max_ttl"}},
		"idempotency": {map[string][]string{"kept.idempotency_ttl": {"300h"}}, []string{"kept.idempotency_ttl", "kept.retention"}},
		"body of a record": {map[string][]string{"protocol.max_body": {"1MiB"}, "limits.pending_bytes": {"4MiB"}, "http.body_limit": {"4MiB"}},
			[]string{"protocol.max_body", "1KiB to 1008KiB"}},
		"catching up": {map[string][]string{"live.retention": {"1s"}, "delivery.catch_up_timeout": {"5s"}},
			[]string{"live.retention", "delivery.catch_up_timeout (5s)"}},
		"unknown role": {map[string][]string{"roles": {"comet,logik"}}, []string{"roles", `"logik"`, "comet, logic, router, job"}},
		"role twice":   {map[string][]string{"roles": {"comet", "comet"}}, []string{"roles", "twice"}},
		"no role":      {map[string][]string{"roles": {","}}, []string{"roles", "no role"}},
		"join alone":   {map[string][]string{"cluster.join": {"10.0.0.1"}}, []string{"cluster.join", "no Kafka", "--kafka"}},
		"kafka alone": {map[string][]string{"kafka.brokers": {"10.0.0.9:9092"}},
			[]string{"kafka.brokers", "cluster.join is empty", "--join"}},
		"no secret": {clustered(nil), []string{"cluster.gossip", "beyond loopback", "IMGO_CLUSTER_SECRET"}},
		"no secret for calls": {clustered(map[string][]string{"cluster.gossip": {"127.0.0.1:7946"}}),
			[]string{"cluster.rpc", "beyond loopback", "openssl"}},
		"short cluster secret": {clustered(map[string][]string{"cluster.secret": {"hush"}}), []string{"cluster.secret", "4 bytes"}},
		"no address to join":   {clustered(map[string][]string{"cluster.join": {"10.0.0.1:x"}}), []string{"cluster.join", `"10.0.0.1:x"`}},
		"broker without port":  {clustered(map[string][]string{"kafka.brokers": {"10.0.0.9"}}), []string{"kafka.brokers", `"10.0.0.9"`, "9092"}},
		"sasl without user":    {clustered(map[string][]string{"kafka.sasl": {"plain"}}), []string{"kafka.sasl", "kafka.user"}},
		"user without sasl":    {clustered(map[string][]string{"kafka.user": {"a"}, "kafka.password": {"b"}}), []string{"kafka.sasl", "none"}},
		"too many in sync": {clustered(map[string][]string{"kafka.replication": {"1"}, "kafka.min_in_sync": {"2"}}),
			[]string{"kafka.min_in_sync", "kafka.replication"}},
		"tls files unused": {clustered(map[string][]string{"kafka.tls_ca": {"config.go"}}), []string{"kafka.tls", "is off"}},
		"ca alone":         {clustered(map[string][]string{"cluster.tls_ca": {"config.go"}}), []string{"cluster.tls_ca", "give both"}},
		"advertised anywhere": {clustered(map[string][]string{"cluster.rpc_address": {"0.0.0.0:7170"}}),
			[]string{"cluster.rpc_address", "0.0.0.0:7170"}},
		"ws scheme":      {clustered(map[string][]string{"cluster.ws_address": {"http://a:1"}}), []string{"cluster.ws_address", "ws://"}},
		"one port twice": {clustered(map[string][]string{"cluster.rpc": {":8080"}}), []string{"cluster.rpc", "8080", "comet.tcp"}},
		"node id":        {map[string][]string{"node_id": {"a b"}}, []string{"node_id", `"a b"`}},
		"data dir":       {map[string][]string{"data_dir": {" "}}, []string{"data_dir", "empty"}},
		"level":          {map[string][]string{"logging.level": {"loud"}}, []string{"logging.level", "debug, info, warn, error"}},
		"negative":       {map[string][]string{"limits.connections": {"-1"}}, []string{"limits.connections", "-1"}},
		"not a number":   {map[string][]string{"limits.connect_rate": {"NaN"}}, []string{"limits.connect_rate"}},
		"not an integer": {map[string][]string{"limits.connections": {"many"}},
			[]string{"--limits-connections:", `"many"`, "whole number"}},
		"bounds":         {map[string][]string{"protocol.max_body": {"2MiB"}}, []string{"protocol.max_body", "from 1KiB to 1008KiB"}},
		"zero heartbeat": {map[string][]string{"protocol.heartbeat": {"0s"}}, []string{"protocol.heartbeat", "from 1s"}},
		"policy":         {map[string][]string{"limits.sessions_policy": {"newest"}}, []string{"refuse, close_oldest"}},
		"pending":        {map[string][]string{"limits.pending_bytes": {"32KiB"}}, []string{"limits.pending_bytes", "protocol.max_body"}},
		"half a pair":    {map[string][]string{"http.tls_key": {"config.go"}}, []string{"http.tls_key", "http.tls_cert"}},
		"no certificate": {map[string][]string{"comet.tls_cert": {"none.pem"}, "comet.tls_key": {"none.pem"}},
			[]string{"comet.tls_cert", "none.pem", "no such file"}},
		"folder for a file": {map[string][]string{"auth.jwks_file": {"."}}, []string{"auth.jwks_file", "is a directory"}},
		"short secret":      {map[string][]string{"auth.jwt_secret": {"hush"}}, []string{"auth.jwt_secret", "4 bytes", "openssl"}},
		"http JWKS":         {map[string][]string{"auth.jwks_url": {"http://example.com/jwks"}}, []string{"auth.jwks_url", "https"}},
		"no JWKS address":   {map[string][]string{"auth.jwks_url": {"example.com"}}, []string{"auth.jwks_url"}},
		"no claim":          {map[string][]string{"auth.user_claim": {""}}, []string{"auth.user_claim"}},
		"trusted proxy": {
			map[string][]string{"comet.trusted_proxies": {"10.0.0.0/8", "10.0.0.256"}},
			[]string{"comet.trusted_proxies", "10.0.0.256"},
		},
		"nobody is trusted": {
			map[string][]string{"comet.ws_proxy_protocol": {"true"}},
			[]string{"comet.ws_proxy_protocol", "comet.trusted_proxies is empty"},
		},
		"client header": {
			map[string][]string{"comet.ws_client_header": {"X-Real-IP"}},
			[]string{"comet.ws_client_header", "X-Forwarded-For"},
		},
		"origin with a path": {map[string][]string{"comet.ws_origins": {"https://example.com/page"}},
			[]string{"comet.ws_origins", "https://example.com:8443"}},
		"origin with a star": {map[string][]string{"comet.ws_origins": {"bü*.example"}}, []string{"comet.ws_origins", "star"}},
		"trusted with a star": {map[string][]string{"http.trusted_origins": {"https://*.example"}},
			[]string{"http.trusted_origins", "https://console.example.com"}},
		"origin pattern":        {map[string][]string{"comet.ws_origins": {"[x"}}, []string{"comet.ws_origins"}},
		"admin beyond loopback": {map[string][]string{"http.admin": {":7173"}}, []string{"http.admin", "beyond loopback", "127.0.0.1:7173"}},
		"admin on a used port":  {map[string][]string{"http.admin": {"127.0.0.1:7172"}}, []string{"http.admin", "http.listen"}},
		"short api key":         {map[string][]string{"http.api_keys": {"a:short"}}, []string{"http.api_keys", `"a"`, "5 bytes", "openssl"}},
		"api key twice":         {map[string][]string{"http.api_keys": {key + "," + key}}, []string{"http.api_keys", "two keys"}},
		"same api key":          {map[string][]string{"http.api_keys": {key, "b:0123456789abcdef"}}, []string{"http.api_keys", "same key"}},
		"api key's rate":        {map[string][]string{"http.api_keys": {key + ":fast"}}, []string{"--http-api-keys:", "rate"}},
		"negative rate":         {map[string][]string{"http.api_keys": {key + ":-1"}}, []string{"http.api_keys", "rate"}},
		"api key's name":        {map[string][]string{"http.api_keys": {"a/b:0123456789abcdef"}}, []string{"http.api_keys", "slash"}},
		"everything at once": {map[string][]string{"roles": {"x"}, "comet.tcp": {"y"}, "kept.ttl": {"9000h"}},
			[]string{"3 problems", "roles", "comet.tcp", "kept.ttl"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(config.Sources{Flags: test.flags})
			wantProblem(t, err, test.want...)
		})
	}
}

func TestWhatIsAccepted(t *testing.T) {
	pem := filepath.Join(t.TempDir(), "x.pem")
	if err := os.WriteFile(pem, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string]map[string][]string{
		"http beyond loopback with a key": {"http.listen": {"0.0.0.0:7172"}, "http.api_keys": {"backend:0123456789abcdef"}},
		"none on loopback":                {"auth.mode": {"none"}, "comet.tcp": {"127.0.0.1:8080"}, "comet.ws": {"[::1]:8090"}},
		"IPv6":                            {"comet.tcp": {"[::]:8080"}, "http.listen": {"[::1]:7172"}},
		"any free port":                   {"comet.tcp": {"127.0.0.1:0"}, "comet.ws": {"127.0.0.1:0"}, "http.listen": {"127.0.0.1:0"}},
		"ws off":                          {"comet.ws": {"off"}},
		"TLS":                             {"comet.tls_cert": {pem}, "comet.tls_key": {pem}, "http.tls_cert": {pem}, "http.tls_key": {pem}},
		"router alone":                    {"roles": {"router"}},
		"JWKS on loopback":                {"auth.jwks_url": {"http://127.0.0.1:1/jwks"}},
		"same port, other addresses":      {"comet.tcp": {"127.0.0.1:9000"}, "comet.ws": {"127.0.0.2:9000"}},
	} {
		t.Run(name, func(t *testing.T) {
			load(t, config.Sources{Flags: flags})
		})
	}
}

// clustered returns valid settings of a node in a cluster, with some more values.
func clustered(more map[string][]string) map[string][]string {
	all := map[string][]string{"cluster.join": {"10.0.0.1"}, "kafka.brokers": {"10.0.0.9:9092"}}
	maps.Copy(all, more)
	return all
}

func TestClusterSettingsThatAreFine(t *testing.T) {
	for name, more := range map[string]map[string][]string{
		"secret":         {"cluster.secret": {"0123456789abcdef"}},
		"loopback":       {"cluster.gossip": {"127.0.0.1:0"}, "cluster.rpc": {"[::1]:0"}},
		"a comet is off": {"cluster.secret": {"0123456789abcdef"}, "roles": {"router"}, "comet.tcp": {"off"}, "comet.ws": {"off"}},
		"itself":         {"cluster.secret": {"0123456789abcdef"}, "cluster.join": {"127.0.0.1", "imgo.internal:7946", "[::1]:7000"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := load(t, config.Sources{Flags: clustered(more)})
			if !cfg.Clustered() || len(cfg.EmbeddedRoles()) > 0 {
				t.Errorf("clustered: %v, embedded: %v", cfg.Clustered(), cfg.EmbeddedRoles())
			}
		})
	}
}
