package console_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// waitLimit bounds every wait for the page. A busy machine needs seconds.
const waitLimit = time.Minute

// tab is one page in a browser process of its own.
type tab struct {
	*testing.T
	ctx   context.Context
	shots string // folder of the screenshots
	name  string // prefix of their file names
	n     int    // number of screenshots so far

	// expected are parts of browser errors that the test provokes on purpose.
	expected []string
	mu       sync.Mutex
	problems []string // browser errors: exceptions, errors on the console, loads that the policy forbids
}

// screen is the size and kind of the emulated screen.
type screen struct {
	name          string
	width, height int64
	scale         float64
	mobile, dark  bool
}

var (
	desktop = screen{name: "desktop", width: 1280, height: 800, scale: 1}
	phone   = screen{name: "phone", width: 360, height: 740, scale: 2, mobile: true} // the narrowest that is common
)

// open starts Chromium with an empty profile and returns its one tab.
func open(t *testing.T, s screen) *tab {
	t.Helper()
	opts := []chromedp.ExecAllocatorOption{
		// Without UserDataDir the allocator makes an empty profile. It removes the profile after
		// the browser has ended.
		chromedp.ExecPath(chromium(t)), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WindowSize(int(s.width), int(s.height)),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(cancel)
	ctx, _ = chromedp.NewContext(ctx)
	b := &tab{T: t, ctx: ctx, shots: screenshotDir(t), name: s.name}

	// The first Run starts the browser. The browser ends with the context of that Run.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", chromium(t), err)
	}
	complaints := chromedp.Console(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { b.listen(complaints) })
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("end the browser: %v", err)
		}
		wg.Wait()
	})

	scheme := "light"
	if s.dark {
		scheme = "dark"
		b.name += "-dark"
	}
	viewport := []chromedp.EmulateViewportOption{chromedp.EmulateScale(s.scale)}
	if s.mobile {
		viewport = append(viewport, chromedp.EmulateMobile, chromedp.EmulateTouch, chromedp.EmulatePortrait)
	}
	b.do("set the screen", chromedp.EmulateViewport(s.width, s.height, viewport...),
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
			})
			return err
		}))
	return b
}

// chromium returns the path of the browser. Without a browser it skips the test, or fails it if
// CI=true.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "the browser test needs Chromium (Debian: apt-get install chromium), and there is none"
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// screenshotDir returns IMGO_SCREENSHOT_DIR, or a temporary folder if that is not set.
func screenshotDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("IMGO_SCREENSHOT_DIR")
	if dir == "" {
		return t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatalf("make the screenshot folder: %v", err)
	}
	return dir
}

// listen records script errors and policy violations until the browser ends.
func (b *tab) listen(messages func(yield func(chromedp.ConsoleMessage, error) bool)) {
	for m, err := range messages {
		if err != nil {
			return
		}
		if m.Type == chromedp.ConsoleError || m.IsException() {
			b.mu.Lock()
			b.problems = append(b.problems, fmt.Sprintf("%s (%s:%d)", m.Text, m.URL, m.Line+1))
			b.mu.Unlock()
		}
	}
}

// checkProblems fails the test for every browser error that it did not provoke.
func (b *tab) checkProblems() {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		if !slices.ContainsFunc(b.expected, func(part string) bool { return strings.Contains(p, part) }) {
			b.Errorf("the browser complains: %s", p)
		}
	}
}

func (b *tab) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitLimit)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

// run runs an action and returns its value.
func run[V any](b *tab, what string, action chromedp.Action[V]) V {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitLimit)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
	return v
}

// eval evaluates an expression in the page.
func eval[V any](b *tab, expression string) V {
	b.Helper()
	return run(b, "evaluate "+expression, chromedp.Evaluate[V](expression))
}

func (b *tab) visit(url string) {
	b.Helper()
	b.do("open "+url, chromedp.Navigate(url), chromedp.WaitVisible(chromedp.CSS("#connect-form")))
}

func (b *tab) click(selector string) {
	b.Helper()
	b.do("click "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// enter replaces the text of a field by single key strokes.
func (b *tab) enter(selector, text string) {
	b.Helper()
	b.do("focus "+selector, chromedp.Focus(chromedp.CSS(selector), chromedp.NodeVisible))
	eval[bool](b, fmt.Sprintf("(document.querySelector(%q).select(), true)", selector))
	b.do("type into "+selector, chromedp.KeyEvent(kb.Backspace), chromedp.KeyEvent(text))
}

// until waits until the condition holds.
func (b *tab) until(what string, condition func() bool) {
	b.Helper()
	for end := time.Now().Add(waitLimit); !condition(); {
		if time.Now().After(end) {
			b.shot("failed")
			b.Fatalf("waited %s in vain: %s\nthe page says:\n%s", waitLimit, what, eval[string](b, "document.body.innerText"))
		}
		select {
		case <-b.ctx.Done():
			b.Fatalf("%s: %v", what, b.ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// says waits until an element shows a text that contains part.
func (b *tab) says(selector, part string) {
	b.Helper()
	b.until(fmt.Sprintf("%s says %q", selector, part), func() bool {
		return strings.Contains(eval[string](b, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector)), part)
	})
}

// state waits until the page shows the state of the connection.
func (b *tab) state(want string) {
	b.Helper()
	b.until("the state is "+want, func() bool {
		return eval[string](b, "document.getElementById('state').dataset.state") == want
	})
}

// shownMessage is one message on the page.
type shownMessage struct {
	ID   string
	Kept bool
	Text string
}

// messages returns the messages on the page, oldest first.
func (b *tab) messages() []shownMessage {
	b.Helper()
	list := eval[[]shownMessage](b, `[...document.querySelectorAll('#list .message')].map((li) => ({
		ID: li.dataset.id ?? '', Kept: li.querySelector('.mark').textContent === 'kept',
		Text: li.querySelector('.body').textContent,
	}))`)
	slices.Reverse(list)
	return list
}

// arrives waits until the newest messages have these texts, and returns these messages.
func (b *tab) arrives(texts ...string) []shownMessage {
	b.Helper()
	var list []shownMessage
	b.until(fmt.Sprintf("the newest messages are %q", texts), func() bool {
		list = b.messages()
		if len(list) < len(texts) {
			return false
		}
		list = list[len(list)-len(texts):]
		return slices.EqualFunc(list, texts, func(m shownMessage, text string) bool { return m.Text == text })
	})
	return list
}

// push sends a message by the form of the page and waits for the outcome.
func (b *tab) push(text, outcome string) {
	b.Helper()
	eval[string](b, "document.getElementById('push-result').textContent = ''")
	b.enter("#body", text)
	b.click("#push")
	b.says("#push-result", outcome)
}

// layoutProblems is an expression: what overflows its box, or covers what is beside it. Elements that cut
// their text off on purpose, and those for screen readers only, do not count.
const layoutProblems = `(() => {
	const name = (e) => e.tagName.toLowerCase() + (e.id && '#' + e.id) + (e.className && '.' + e.className) +
		' "' + e.textContent.trim().slice(0, 30) + '"';
	const shown = (e) => e.checkVisibility() && !e.closest('.hidden, .skip') && getComputedStyle(e).position !== 'absolute' &&
		e.getBoundingClientRect().width > 0;
	const found = [];
	for (const e of document.body.querySelectorAll('*')) {
		if (!shown(e)) continue;
		const style = getComputedStyle(e);
		if (style.overflowX === 'visible' && e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1)
			found.push(name(e) + ' overflows by ' + (e.scrollWidth - e.clientWidth) + ' px');
		if (e.getBoundingClientRect().right > innerWidth + 1) found.push(name(e) + ' leaves the screen');
		if (!/flex|grid/.test(style.display)) continue;
		const boxes = [...e.children].filter(shown).map((child) => [child, child.getBoundingClientRect()]);
		boxes.forEach(([a, one], i) => boxes.slice(i + 1).forEach(([b, other]) => {
			if (Math.min(one.right, other.right) - Math.max(one.left, other.left) > 1 &&
				Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 1) found.push(name(a) + ' covers ' + name(b));
		}));
	}
	return found;
})()`

// shot saves a screenshot and checks the layout: the page is not wider than the screen, and nothing
// overflows or covers anything.
func (b *tab) shot(step string) {
	b.Helper()
	b.n++
	// Scroll to the top and finish the animations, so that pictures of two runs look alike.
	eval[bool](b, `(scrollTo(0, 0), document.getAnimations().forEach((a) => {
		if (a.effect.getTiming().iterations !== Infinity) a.finish();
	}), true)`)
	png := run(b, "take a screenshot", chromedp.CaptureScreenshot())
	name := filepath.Join(b.shots, fmt.Sprintf("%s-%02d-%s.png", b.name, b.n, step))
	if err := os.WriteFile(name, png, 0o600); err != nil {
		b.Fatalf("save the screenshot: %v", err)
	}
	if wide := eval[int](b, "document.documentElement.scrollWidth - innerWidth"); wide > 0 {
		b.Errorf("%s: the page is %d pixels wider than the screen", name, wide)
	}
	for _, problem := range eval[[]string](b, layoutProblems) {
		b.Errorf("%s: %s", name, problem)
	}
}
