package deploy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// metric is a metric that the source code registers.
type metric struct {
	labels    []string
	histogram bool
}

// source holds the metrics and strings of the project's Go files. It reads the source code, because
// a running program does not show a metric with labels before its first use.
type source struct {
	metrics map[string]metric
	// words are all string literals. They contain the possible label values.
	words map[string]bool
}

func readSource(t *testing.T) *source {
	t.Helper()
	s := &source{metrics: map[string]metric{}, words: map[string]bool{}}
	files := token.NewFileSet()
	packages := map[string][]*ast.File{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && path != ".." &&
			(strings.HasPrefix(name, ".") || slices.Contains([]string{"bench", "clients", "deploy", "docs", "node_modules"}, name)):
			return fs.SkipDir
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		packages[filepath.Dir(path)] = append(packages[filepath.Dir(path)], file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, parsed := range packages {
		s.readPackage(parsed)
	}
	return s
}

// scope holds the values of the names at one place in the source code.
type scope struct {
	texts map[string]string
	lists map[string][]string
	// helpers are functions that take a part of a metric's name as a parameter.
	helpers map[string]*ast.FuncType
	bodies  map[string]*ast.BlockStmt
	depth   int
}

func (s *source) readPackage(files []*ast.File) {
	in := &scope{texts: map[string]string{}, lists: map[string][]string{}, helpers: map[string]*ast.FuncType{},
		bodies: map[string]*ast.BlockStmt{}}
	for _, file := range files {
		ast.Inspect(file, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.BasicLit:
				if word, ok := in.text(n); ok {
					s.words[word] = true
				}
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if i < len(n.Values) {
						in.define(name.Name, n.Values[i])
					}
				}
			case *ast.FuncDecl:
				if n.Body != nil && makesMetrics(n.Body) {
					in.helpers[n.Name.Name], in.bodies[n.Name.Name] = n.Type, n.Body
				}
			}
			return true
		})
	}
	for _, file := range files {
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				if d.Body != nil && makesMetrics(d.Body) {
					s.read(d.Body, in.copy())
				}
			case *ast.GenDecl:
				s.read(d, in.copy())
			}
		}
	}
}

// makesMetrics reports whether a function body uses metrics. Following the calls of all other
// bodies would take long.
func makesMetrics(body *ast.BlockStmt) (yes bool) {
	ast.Inspect(body, func(node ast.Node) bool {
		if name, ok := node.(*ast.Ident); ok && (name.Name == "prometheus" || name.Name == "newMetrics") {
			yes = true
		}
		return !yes
	})
	return yes
}

func (in *scope) copy() *scope {
	return &scope{texts: maps.Clone(in.texts), lists: maps.Clone(in.lists), helpers: maps.Clone(in.helpers), bodies: maps.Clone(in.bodies),
		depth: in.depth}
}

// define records the value of a name if it is a string, a list of labels or a function.
func (in *scope) define(name string, value ast.Expr) {
	if text, ok := in.text(value); ok {
		in.texts[name] = text
	}
	if list, ok := in.list(value); ok {
		in.lists[name] = list
	}
	if f, ok := value.(*ast.FuncLit); ok {
		in.helpers[name], in.bodies[name] = f.Type, f.Body
	}
}

// text returns the value of a string expression. It returns false if the value is unknown.
func (in *scope) text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, err := strconv.Unquote(e.Value)
			return text, err == nil
		}
	case *ast.Ident:
		text, ok := in.texts[e.Name]
		return text, ok
	case *ast.ParenExpr:
		return in.text(e.X)
	case *ast.BinaryExpr:
		left, ok := in.text(e.X)
		right, too := in.text(e.Y)
		return left + right, ok && too && e.Op == token.ADD
	}
	return "", false
}

// list returns the value of a []string expression. It returns false if the value is unknown.
func (in *scope) list(e ast.Expr) ([]string, bool) {
	switch e := e.(type) {
	case *ast.Ident:
		list, ok := in.lists[e.Name]
		return list, ok || e.Name == "nil"
	case *ast.CompositeLit:
		if array, ok := e.Type.(*ast.ArrayType); ok {
			if of, ok := array.Elt.(*ast.Ident); ok && of.Name == "string" {
				list := []string{}
				for _, element := range e.Elts {
					text, _ := in.text(element)
					list = append(list, text)
				}
				return list, true
			}
		}
	}
	return nil, false
}

// read collects the metrics that a body registers, also through calls of helpers.
func (s *source) read(body ast.Node, in *scope) {
	ast.Inspect(body, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.AssignStmt:
			for i, left := range n.Lhs {
				if name, ok := left.(*ast.Ident); ok && i < len(n.Rhs) && len(n.Lhs) == len(n.Rhs) {
					in.define(name.Name, n.Rhs[i])
				}
			}
		case *ast.CallExpr:
			s.call(n, in)
		}
		return true
	})
}

func (s *source) call(n *ast.CallExpr, in *scope) {
	name := ""
	switch f := n.Fun.(type) {
	case *ast.Ident:
		name = f.Name
	case *ast.SelectorExpr:
		name = f.Sel.Name
	}
	if name == "NewDesc" && len(n.Args) == 4 {
		if fq, ok := in.text(n.Args[0]); ok {
			labels, _ := in.list(n.Args[2])
			s.metrics[fq] = metric{labels: labels}
		}
		return
	}
	for _, argument := range n.Args {
		if options, ok := argument.(*ast.CompositeLit); ok && strings.HasPrefix(name, "New") {
			s.options(options, n.Args, in)
		}
	}
	helper, ok := in.helpers[name]
	if !ok || in.depth > 4 {
		return
	}
	// Read the helper's body with the values of its parameters.
	inner, at, known := in.copy(), 0, false
	inner.depth++
	for _, field := range helper.Params.List {
		for _, parameter := range field.Names {
			if _, variadic := field.Type.(*ast.Ellipsis); variadic {
				list := []string{}
				for _, argument := range n.Args[min(at, len(n.Args)):] {
					if text, ok := in.text(argument); ok {
						list = append(list, text)
					} else if given, ok := in.list(argument); ok {
						list = append(list, given...)
					}
				}
				inner.lists[parameter.Name] = list
			} else if at < len(n.Args) {
				delete(inner.texts, parameter.Name)
				delete(inner.lists, parameter.Name)
				inner.define(parameter.Name, n.Args[at])
				_, isText := in.text(n.Args[at])
				known = known || isText
			}
			at++
		}
	}
	if known {
		s.read(in.bodies[name], inner)
	}
}

// options reads prometheus.XOpts{…} and the labels in the arguments beside it.
func (s *source) options(literal *ast.CompositeLit, arguments []ast.Expr, in *scope) {
	kind, ok := literal.Type.(*ast.SelectorExpr)
	if !ok || !strings.HasSuffix(kind.Sel.Name, "Opts") {
		return
	}
	parts := map[string]string{}
	m := metric{histogram: kind.Sel.Name == "HistogramOpts"}
	for _, element := range literal.Elts {
		pair, ok := element.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		field, ok := pair.Key.(*ast.Ident)
		if !ok {
			continue
		}
		if text, ok := in.text(pair.Value); ok {
			parts[field.Name] = text
		}
		if constants, ok := pair.Value.(*ast.CompositeLit); ok && field.Name == "ConstLabels" {
			for _, label := range constants.Elts {
				if pair, ok := label.(*ast.KeyValueExpr); ok {
					text, _ := in.text(pair.Key)
					m.labels = append(m.labels, text)
				}
			}
		}
	}
	for _, argument := range arguments {
		if labels, ok := in.list(argument); ok {
			m.labels = append(m.labels, labels...)
		}
	}
	name := parts["Name"]
	if name == "" {
		return
	}
	for _, prefix := range []string{parts["Subsystem"], parts["Namespace"]} {
		if prefix != "" {
			name = prefix + "_" + name
		}
	}
	s.metrics[name] = m
}

// find returns a metric by the name of one of its series. It also accepts a few metrics that every
// scrape of a Go program has.
func (s *source) find(series string) (metric, bool) {
	if m, ok := s.metrics[series]; ok && !m.histogram {
		return m, true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(series, suffix); ok && s.metrics[base].histogram {
			m := s.metrics[base]
			if suffix == "_bucket" {
				m.labels = append(slices.Clone(m.labels), "le")
			}
			return m, true
		}
	}
	return metric{}, slices.Contains([]string{
		"up", "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes",
		"process_open_fds", "process_max_fds", "go_goroutines",
	}, series)
}

func TestSourceFindsMetrics(t *testing.T) {
	s := readSource(t)
	for series, labels := range map[string][]string{
		"imgo_store_log_end_offset":          {"partition"},       // NewDesc with labels in a variable
		"imgo_store_disk_free_bytes":         nil,                 // options from a function
		"imgo_router_acked_messages_total":   nil,                 // a helper that adds a prefix
		"imgo_router_applied_records_total":  {"kind"},            // a vector
		"imgo_router_mailboxes":              nil,                 // a helper in a method
		"imgo_comet_messages_total":          {"kind", "outcome"}, // a helper with labels
		"imgo_comet_push_seconds_bucket":     {"le"},
		"imgo_logic_push_seconds_count":      {"kept"},
		"imgo_logic_pushes_total":            {"kind", "outcome"},
		"imgo_logic_http_problems_total":     {"code", "field"},
		"imgo_job_skipped_deliveries_total":  {"reason"},
		"imgo_job_skipped_records_total":     {"reason"},
		"imgo_comet_catch_ups_total":         {"outcome"},
		"imgo_node_start_seconds":            {"version"},
		"imgo_store_live_dropped_total":      {"unread"},
		"imgo_store_log_append_seconds_sum":  nil,
		"imgo_comet_detach_queue_sessions":   nil,
		"imgo_logic_http_seconds_bucket":     {"route", "le"},
		"imgo_logic_unlooked_users_total":    nil,
		"imgo_router_flush_seconds_bucket":   {"le"},
		"imgo_comet_throttled_packets_total": nil,
	} {
		m, ok := s.find(series)
		if !ok || !slices.Equal(m.labels, labels) {
			t.Errorf("%s: found %v with labels %q, want %q", series, ok, m.labels, labels)
		}
	}
	for _, series := range []string{"imgo_comet_push_seconds", "imgo_comet_nothing_total", "nothing", "imgo_comet_sessions_bucket"} {
		if _, ok := s.find(series); ok {
			t.Errorf("%s is found, and does not exist", series)
		}
	}
}
