package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"imgo/protocol"
)

// TestDemo starts a process as a container does that is for trying imgo out, and types the commands that it prints.
func TestDemo(t *testing.T) {
	t.Parallel() // it mostly waits
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is missing")
	}
	p := run(t, t.TempDir(), []string{"IMGO_DEMO=1"}, freePorts()...)
	p.ready()
	eventually(t, "the commands are printed", func() bool { return strings.Contains(p.out.String(), "/v1/tokens") })
	commands := regexp.MustCompile(`(?m)^ {4}(curl .*)$`).FindAllStringSubmatch(p.out.String(), -1)
	if len(commands) != 2 {
		t.Fatalf("printed:\n%s", &p.out)
	}
	typed := func(i int) string {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", commands[i][1]).Output()
		if err != nil {
			t.Fatalf("%s: %v", commands[i][1], err)
		}
		return string(out)
	}
	if got := typed(0); !regexp.MustCompile(`^\{"id":"\d+","user":"123","sessions":0,"duplicate":false\}\n$`).MatchString(got) {
		t.Errorf("the push is answered %s", got)
	}
	var made struct{ Token string }
	if err := json.Unmarshal([]byte(typed(1)), &made); err != nil || made.Token == "" {
		t.Fatalf("the token is answered %v, %v", made, err)
	}
	c := tcpTo(t, p.tcp)
	c.send(2, protocol.OpAuth, 1, fmt.Sprintf(`{"token":%q}`, made.Token))
	if reply := c.receive(); reply.Op != protocol.OpAuthReply || !strings.Contains(string(reply.Body), `"pending":1`) {
		t.Errorf("the client is answered %d %s", reply.Op, reply.Body)
	}
	c.expect(protocol.OpMessage, `{"hello":"world"}`)
	// Nothing is open without the key or a token.
	body := strings.NewReader(`{"user":"123","body":1}`)
	resp, err := http.Post(p.node.base+"/v1/push", "application/json", body) //nolint:noctx // on loopback
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a push without the key is answered %d", resp.StatusCode)
	}
	if strings.Contains(p.log.String(), made.Token) {
		t.Error("the log has the token")
	}
}
