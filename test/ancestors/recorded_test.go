package ancestors_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// notReplayed has the recorded conversations that no transcript replays, by file and name, and the reason.
var notReplayed = map[string]map[string]string{
	"goim.txt": {
		"tcp auth ver 2":         "the reply of imgo's own version 2 has the random name of the session",
		"ws not auth -> 9 s":     "it measures a time, which is a setting: protocol.handshake_timeout",
		"ws TCP not auth -> 9 s": "it measures a time, which is a setting: protocol.handshake_timeout",
		"ws handshake head":      "TestUpgrades replays it",
		"ws handshake head, deflate and a subprotocol asked": "TestUpgrades replays it",
	},
	"goim-http.txt": {
		"GET /goim/online/top?type=live&limit=10 None":   "other clients were connected when it was recorded",
		"GET /goim/nodes/weighted?platform=web None":     "the answer has the addresses of the installation",
		"GET /goim/nodes/weighted?platform=android None": "the answer has the addresses of the installation",
		"GET /goim/nodes/weighted None":                  "the answer has the addresses of the installation",
		"GET /goim/nodes/instances None":                 "the answer has the addresses of the installation and the time",
	},
	"imgo2016-http.txt": {
		"GET /1/count?type=server None": "the answer has the number of the comet",
		"GET / None":                    "imgo has its console there",
		"GET /1/msg/get?uid=35&mid=-1&token=tok35&cb=f None":           "the answer has the times of the messages",
		"GET /1/msg/get?uid=36&mid=0&token=true&cb=jQuery123_456 None": "the answer has the times of the messages",
	},
}

// recording is a recorded conversation, or call, in a file of testdata/recorded. answer is that of a call, as a transcript
// has it.
type recording struct{ name, answer string }

// recordings reads a file of testdata/recorded. In a file of conversations the names begin with tcp or ws.
func recordings(t *testing.T, file string) (all []recording) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "recorded", file))
	if err != nil {
		t.Fatal(err)
	}
	calls, section := strings.HasSuffix(file, "-http.txt"), ""
	for text := range strings.Lines(string(b)) {
		text = strings.TrimSpace(text)
		if title, ok := strings.CutPrefix(text, "####"); ok {
			section = strings.ToLower(strings.TrimLeft(title, "# ")) + " "
			continue
		}
		name, same := strings.CutPrefix(text, "SAME ")
		other, differs := strings.CutPrefix(text, "DIFF ")
		switch {
		case differs && calls:
			all = append(all, recording{name: strings.TrimSpace(other)})
		case differs:
			all = append(all, recording{name: section + strings.TrimSpace(other)})
		case same && !calls:
			all = append(all, recording{name: section + strings.TrimSpace(name)})
		case same || calls && len(all) > 0: // the answer is on the same line, or on the one below
			if same {
				at := answerAt.FindStringIndex(name)
				all, text = append(all, recording{name: strings.TrimSpace(name[:at[0]])}), name[at[0]:]
			}
			all[len(all)-1].answer = recordedAnswer(t, text)
		}
	}
	return all
}

// answerAt finds where a recorded answer begins: (200, 'text/plain', None, b'…').
var answerAt = regexp.MustCompile(` \((\d{3}), (None|'([^']*)'), (?:None|'[^']*'), b'(.*)'\)$`)

// recordedAnswer returns a recorded answer as a transcript has it.
func recordedAnswer(t *testing.T, text string) string {
	t.Helper()
	part := answerAt.FindStringSubmatch(text)
	if part == nil {
		t.Fatalf("%q is no answer", text)
	}
	body, err := strconv.Unquote(`"` + strings.NewReplacer(`"`, `\"`, `\'`, `'`).Replace(part[4]) + `"`)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return fmt.Sprintf("= %s %q %q", part[1], part[3], body)
}

// callName returns the plain recorded name of a call in a transcript.
func callName(text string) string {
	method, rest, _ := strings.Cut(text, " ")
	path, quoted, found := strings.Cut(rest, " ")
	body, err := strconv.Unquote(quoted)
	if !found || err != nil {
		return method + " " + path
	}
	return fmt.Sprintf("%s %s b'%s'", method, path, body)
}

// plainName is a recorded name without what stands for nothing: the ? of an empty query, and an empty body.
func plainName(name string) string {
	name = strings.TrimSuffix(strings.TrimSuffix(name, " None"), " b''")
	method, rest, _ := strings.Cut(name, " ")
	path, body, found := strings.Cut(rest, " ")
	name = method + " " + strings.TrimSuffix(path, "?")
	if found {
		name += " " + body
	}
	return name
}

// TestNothingRecordedIsLeftOut checks that a transcript replays each recorded conversation and call, with the recorded answer, or
// that notReplayed says why none does.
func TestNothingRecordedIsLeftOut(t *testing.T) {
	for _, file := range transcripts {
		t.Run(file, func(t *testing.T) {
			all := recordings(t, file)
			if len(all) < 25 {
				t.Fatalf("%d recordings", len(all))
			}
			named := map[string]bool{}       // by a line of the transcript, or in notReplayed
			answers := map[string][]string{} // of the calls in the transcript
			var last string
			for _, l := range readTranscript(t, file) {
				verb, rest, _ := strings.Cut(l.text, " ")
				switch verb {
				case "recorded":
					named[rest] = true
				case "GET", "HEAD", "OPTIONS", "POST", "PUT":
					last = callName(l.text)
				case "=":
					answers[last] = append(answers[last], l.text)
				}
			}
			for name := range notReplayed[file] {
				if named[name] {
					t.Errorf("%s: a transcript replays it", name)
				}
				named[name] = true
			}
			for _, r := range all {
				if named[r.name] {
					continue
				}
				got := answers[plainName(r.name)]
				i := slices.Index(got, r.answer)
				if i < 0 {
					t.Errorf("%s: left out, or with another answer: %q, recorded %s", r.name, got, r.answer)
					continue
				}
				answers[plainName(r.name)] = slices.Delete(got, i, i+1)
			}
			for name := range named {
				if !slices.ContainsFunc(all, func(r recording) bool { return r.name == name }) {
					t.Errorf("%s: was not recorded", name)
				}
			}
		})
	}
}

// TestDifferencesAreExceptions checks that the reason of each difference in a transcript is a case in the table of the page for users.
func TestDifferencesAreExceptions(t *testing.T) {
	page, err := os.ReadFile("../../docs/how-to/migrate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "\n## Exceptions\n")
	table, _, _ = strings.Cut(table, "\n## ")
	if !found {
		t.Fatal("the page has no list of exceptions")
	}
	for _, file := range transcripts {
		lines := readTranscript(t, file)
		for i, l := range lines {
			reason, ok := strings.CutPrefix(l.text, "! ")
			if ok && !strings.HasPrefix(lines[i-1].text, "! ") && !strings.Contains(table, "\n| "+reason+" | ") {
				t.Errorf("%s:%d: %q is no case in the exceptions", file, l.number, reason)
			}
		}
	}
}
