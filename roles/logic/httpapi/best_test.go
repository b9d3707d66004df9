package httpapi_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

// comet returns a node that clients may connect to.
func comet(name string, sessions, weight int, zone string) logic.NodeInfo {
	return logic.NodeInfo{
		Name: name, Roles: []string{"comet"}, Ready: true, Sessions: sessions, Weight: weight, Zone: zone,
		Clients: map[string]string{"tcp": name + ":8080", "ws": "wss://" + name + ":443/push"},
	}
}

func nodesHarness(t *testing.T, cfg httpapi.Config, nodes ...logic.NodeInfo) *harness {
	return newHarness(t, cfg, &fakeService{nodes: func() []logic.NodeInfo { return nodes }})
}

func (h *harness) best(query string) []string {
	h.t.Helper()
	a := h.do("GET", "/v1/nodes/best?"+query, "")
	var reply struct{ Addresses []string }
	if err := json.Unmarshal([]byte(a.body), &reply); err != nil || a.status != 200 {
		h.t.Fatalf("%s answered %d %s", query, a.status, a.body)
	}
	return reply.Addresses
}

// TestBestNodes checks which nodes are named, and their order. The loads differ by so much that the
// random choice has no effect.
func TestBestNodes(t *testing.T) {
	unready, leaving, silent, everywhere := comet("unready", 0, 1, ""), comet("leaving", 0, 1, ""), comet("silent", 0, 1, ""),
		comet("all", 0, 1, "")
	unready.Ready, leaving.Leaving, silent.Clients = false, true, nil
	everywhere.Clients = map[string]string{"tcp": ":8080", "ws": "[::]:8090"}
	router := comet("router", 0, 1, "")
	router.Roles = []string{"router"}
	h := nodesHarness(t, httpapi.Config{},
		unready, leaving, silent, everywhere, router,
		comet("full", 9000, 1, "a"), comet("heavy", 4000, 4, "b"), comet("middle", 3000, 0, "a"), comet("empty", 0, 1, "b"))
	for query, want := range map[string]string{
		"transport=tcp":            "empty:8080 heavy:8080 middle:8080 full:8080",
		"transport=tcp&n=2":        "empty:8080 heavy:8080",
		"transport=tcp&zone=a":     "middle:8080 full:8080 empty:8080 heavy:8080",
		"transport=tcp&zone=a&n=1": "middle:8080",
		"transport=tcp&zone=other": "empty:8080 heavy:8080 middle:8080 full:8080",
		"transport=ws&n=1":         "wss://empty:443/push",
	} {
		if got := strings.Join(h.best(query), " "); got != want {
			t.Errorf("%s named %s, want %s", query, got, want)
		}
	}
	var many []logic.NodeInfo
	for i := range 30 {
		many = append(many, comet(fmt.Sprint("c", i), 0, 1, ""))
	}
	h = nodesHarness(t, httpapi.Config{}, many...)
	if a, b := len(h.best("transport=ws")), len(h.best("transport=ws&n=20")); a != 5 || b != 20 {
		t.Errorf("named %d without n, %d with n=20", a, b)
	}
	for _, query := range []string{"", "transport=udp", "transport=ws&n=0", "transport=ws&n=21", "transport=ws&nodes=1"} {
		if a := h.doUnchecked("GET", "/v1/nodes/best?"+query, ""); a.status != 400 {
			t.Errorf("%s answered %d %s", query, a.status, a.body)
		}
	}
	if a := nodesHarness(t, httpapi.Config{}).do("GET", "/v1/nodes/best?transport=ws", ""); a.body != `{"addresses":[]}`+"\n" {
		t.Errorf("without a comet: %s", a.body)
	}
}

// TestBestNodesShareAlike checks that nearly equal comets take turns. A much fuller comet is never
// first.
func TestBestNodesShareAlike(t *testing.T) {
	h := nodesHarness(t, httpapi.Config{}, comet("a", 1000, 1, ""), comet("b", 1050, 1, ""), comet("c", 500, 1, ""), comet("d", 510, 1,
		""), comet("e", 900, 1, ""))
	first := map[string]int{}
	for range 400 {
		first[h.best("transport=tcp&n=1")[0]]++
	}
	if len(first) != 2 || first["c:8080"] < 100 || first["d:8080"] < 50 {
		t.Errorf("first were %v", first)
	}
}

// TestBestNodesIsForClients checks that a client needs no key and that every page may read the answer.
// No cache may give the same answer to all. The answer contains only addresses.
func TestBestNodesIsForClients(t *testing.T) {
	h := nodesHarness(t, httpapi.Config{Keys: twoKeys}, comet("a", 7, 3, "zone"))
	a := h.do("GET", "/v1/nodes/best?transport=tcp", "", "Origin: https://app.example", "Sec-Fetch-Site: cross-site")
	if a.status != 200 || a.body != `{"addresses":["a:8080"]}`+"\n" || a.header.Get("Access-Control-Allow-Origin") != "*" ||
		a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("answered %d %v %s", a.status, a.header, a.body)
	}
	if a := h.do("GET", "/v1/nodes", ""); a.status != 401 {
		t.Errorf("the nodes without a key: %d", a.status)
	}
}

func TestNodesTellWeightAndZone(t *testing.T) {
	leaving := comet("a", 7, 3, "here")
	leaving.Leaving = true
	h := nodesHarness(t, httpapi.Config{}, leaving)
	if a := h.do("GET", "/v1/nodes", ""); !strings.Contains(a.body, `"weight":3,"zone":"here","leaving":true`) {
		t.Errorf("answered %s", a.body)
	}
}

// TestGoimWeights checks the order of goim's balancer, with its fixed weight 10 for weight 1. The
// order depends on a comet's share of half of all connections. So a comet of a greater weight stays
// ahead of emptier comets.
func TestGoimWeights(t *testing.T) {
	leaving := comet("leaving", 0, 9, "")
	leaving.Leaving = true
	for _, tt := range []struct {
		query string
		want  string
		nodes []logic.NodeInfo
	}{
		// 10+floor(6000*(10/20-1/12)) = 2510, 10+floor(6000*(10/20-5/12)) = 510
		{"", "empty full", []logic.NodeInfo{comet("full", 5000, 1, ""), comet("empty", 1000, 1, ""), leaving}},
		// 30+6000*(30/40-4/12) = 2530, 10+6000*(10/40-2/12) = 510
		{"", "heavy light", []logic.NodeInfo{comet("light", 2000, 1, ""), comet("heavy", 4000, 3, "")}},
		// With a zone: 16+floor(6000*(16/26-5/12)) = 1208, 10+floor(6000*(10/20-1/12)) = 2510
		{"?zone=z", "empty full", []logic.NodeInfo{comet("full", 5000, 1, "z"), comet("empty", 1000, 1, "")}},
		// 16+floor(6000*(16/26-3.1/12)) = 2158, 10+floor(6000*(10/20-2.9/12)) = 1560
		{"?zone=z", "near far", []logic.NodeInfo{comet("far", 2900, 1, ""), comet("near", 3100, 1, "z")}},
		{"", "far near", []logic.NodeInfo{comet("far", 2900, 1, ""), comet("near", 3100, 1, "z")}},
		// Without connections the weights decide.
		{"", "heavy light", []logic.NodeInfo{comet("light", 0, 1, ""), comet("heavy", 0, 2, "")}},
	} {
		h := nodesHarness(t, httpapi.Config{}, tt.nodes...)
		a := h.do("GET", "/goim/nodes/weighted"+tt.query, "")
		var reply struct{ Data struct{ Nodes []string } }
		if err := json.Unmarshal([]byte(a.body), &reply); err != nil || strings.Join(reply.Data.Nodes, " ") != tt.want {
			t.Errorf("%s named %v, want %s: %v", tt.query, reply.Data.Nodes, tt.want, err)
		}
	}
	h := nodesHarness(t, httpapi.Config{}, comet("a", 3, 2, "z"), leaving)
	a := h.do("GET", "/goim/nodes/instances", "")
	for _, part := range []string{`"zone":"z"`, `"weight":"20"`, `"offline":"true"`, `"weight":"90"`} {
		if !strings.Contains(a.body, part) {
			t.Errorf("the instances lack %s: %s", part, a.body)
		}
	}
	// Equal comets take turns.
	h = nodesHarness(t, httpapi.Config{}, comet("a", 3, 1, ""), comet("b", 3, 1, ""))
	var first []bool
	for range 64 {
		first = append(first, strings.Contains(h.do("GET", "/goim/nodes/weighted", "").body, `["a","b"]`))
	}
	if !slices.Contains(first, true) || !slices.Contains(first, false) {
		t.Error("one of two equals is always first")
	}
}
