package httpapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// openapi is an OpenAPI 3.1 document that requests and answers can be validated against. A small
// library validates its schemas, which are JSON Schema 2020-12. This file reads the other parts, as
// far as our document uses them. A library for all of OpenAPI has 300,000 lines, which is too much to
// compile for this purpose.
//
// The document does not change after it was read, so parallel tests share it.
type openapi struct {
	Security   []map[string][]string
	Paths      map[string]pathItem
	Components struct {
		SecuritySchemes map[string]struct{ Type, Scheme, In, Name string }
	}

	operations []*operation // paths with the fewest parameters first
	schemas    map[string]*jsonschema.Schema
}

type pathItem struct {
	Parameters                                          []described
	Get, Put, Post, Delete, Options, Head, Patch, Trace *operation
}

type operation struct {
	OperationID string
	Scope       string      `json:"x-scope"`
	Parameters  []described // including those of the path item
	Security    []map[string][]string
	RequestBody struct {
		Required bool
		Content  content
	}
	Responses map[string]struct {
		Headers map[string]described
		Content content
	}

	method, path string
	match        *regexp.Regexp // matches the escaped path, with a group for each parameter
	names        []string       // the names of those groups
}

// described is a parameter, a header or a media type. Each has a schema.
type described struct {
	Name, In string
	Required bool
	Explode  *bool
	Schema   string // the location of the schema, a key of openapi.schemas
	Example  string // of a parameter
	Examples map[string]struct{ Value json.RawMessage }
}

// content maps each media type that a body may have to its description.
type content map[string]described

// publishedSchema is the OpenAPI Initiative's own schema for documents
// (Apache-2.0), https://spec.openapis.org/oas/3.1/schema/2022-10-07.
const publishedSchema = "testdata/openapi-3.1.schema.json"

// documentURL is the name of the document in schema errors.
const documentURL = "imgo:///openapi.json"

// errUndescribed means that the document does not describe the request or answer.
var errUndescribed = errors.New("is not described")

// readOpenAPI reads and checks a document. It returns an error for a violation of OpenAPI's own
// schema, a broken reference or an invalid schema. Each operation needs an id of its own, and the
// declared path parameters must match the path.
func readOpenAPI(raw []byte) (*openapi, error) {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(documentURL, value); err != nil {
		return nil, err
	}
	metaschema, err := compiler.Compile(publishedSchema)
	if err != nil {
		return nil, err
	}
	if err := metaschema.Validate(value); err != nil {
		return nil, err
	}
	d := &openapi{schemas: map[string]*jsonschema.Schema{}}
	resolved, err := d.resolve(compiler, value, "#", value)
	if err != nil {
		return nil, err
	}
	if raw, err = json.Marshal(resolved); err == nil {
		err = json.Unmarshal(raw, d)
	}
	return d, errors.Join(err, d.readOperations())
}

// resolve compiles the schemas in a part of the document. It returns that part with each schema
// replaced by its location, and each reference replaced by its target. The compiler resolves
// references inside schemas.
func (d *openapi) resolve(compiler *jsonschema.Compiler, root any, at string, value any) (any, error) {
	switch v := value.(type) {
	case []any:
		list, problems := make([]any, len(v)), make([]error, len(v))
		for i := range v {
			list[i], problems[i] = d.resolve(compiler, root, fmt.Sprint(at, "/", i), v[i])
		}
		return list, errors.Join(problems...)
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			target := root
			for _, key := range strings.Split(ref, "/")[1:] {
				object, _ := target.(map[string]any)
				target = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(key)]
			}
			if target == nil || !strings.HasPrefix(ref, "#/") {
				return nil, fmt.Errorf("%s: nothing is at %s", at, ref)
			}
			return d.resolve(compiler, root, ref, target)
		}
		object, problems := map[string]any{}, []error(nil)
		for key, child := range v {
			childAt := at + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
			var err error
			switch {
			case key == "schema" || at == "#/components/schemas":
				object[key] = childAt
				d.schemas[childAt], err = compiler.Compile(documentURL + childAt)
			case key == "value" || key == "example": // These may have any value.
				object[key] = child
			default:
				object[key], err = d.resolve(compiler, root, childAt, child)
			}
			problems = append(problems, err)
		}
		return object, errors.Join(problems...)
	}
	return value, nil
}

// placeholder matches a parameter in a path, before and after QuoteMeta.
var placeholder = regexp.MustCompile(`\\?\{(.*?)\\?\}`)

func (d *openapi) readOperations() error {
	var problems []error
	ids := map[string]bool{"": true}
	for path, item := range d.Paths {
		for method, op := range map[string]*operation{
			"GET": item.Get, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete,
			"OPTIONS": item.Options, "HEAD": item.Head, "PATCH": item.Patch, "TRACE": item.Trace,
		} {
			if op == nil {
				continue
			}
			op.method, op.path = method, path
			op.match = regexp.MustCompile("^" + placeholder.ReplaceAllString(regexp.QuoteMeta(path), "([^/]+)") + "$")
			for _, group := range placeholder.FindAllStringSubmatch(path, -1) {
				op.names = append(op.names, group[1])
			}
			op.Parameters = append(op.Parameters, item.Parameters...)
			if op.Security == nil {
				op.Security = d.Security
			}
			d.operations = append(d.operations, op)

			if ids[op.OperationID] {
				problems = append(problems, fmt.Errorf("%s %s: the operationId %q is missing or used twice", method, path, op.OperationID))
			}
			ids[op.OperationID] = true
			var declared []string
			for _, p := range op.Parameters {
				if p.In == "path" {
					declared = append(declared, p.Name)
				}
			}
			slices.Sort(declared)
			if !slices.Equal(declared, slices.Sorted(slices.Values(op.names))) {
				problems = append(problems, fmt.Errorf("%s %s declares the path parameters %q", method, path, declared))
			}
		}
	}
	slices.SortFunc(d.operations, func(a, b *operation) int { return len(a.names) - len(b.names) })
	return errors.Join(problems...)
}

// check validates an answer against the document. If the request was accepted, it is validated too. A
// refused request may break any rule.
func (d *openapi) check(r *http.Request, body string, a answer) error {
	var path string
	for _, op := range d.operations {
		if !op.match.MatchString(r.URL.EscapedPath()) || path != "" && path != op.path {
			continue // A literal path takes precedence over one with parameters, whatever its methods.
		}
		path = op.path
		problem := d.checkAnswer(op, a)
		if op.method == r.Method && a.status < 300 {
			problem = errors.Join(d.checkRequest(op, r, body), problem)
		}
		if op.method == r.Method || a.status == http.StatusMethodNotAllowed { // Status 405 is described at the methods that exist.
			return problem
		}
	}
	return fmt.Errorf("the operation %s %s %w", r.Method, r.URL.EscapedPath(), errUndescribed)
}

func (d *openapi) checkRequest(op *operation, r *http.Request, body string) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	problems := []error{err}
	undescribed := maps.Clone(query)
	segments := op.match.FindStringSubmatch(r.URL.EscapedPath())[1:]
	for _, p := range op.Parameters {
		var texts []string
		switch p.In {
		case "path":
			text, err := url.PathUnescape(segments[slices.Index(op.names, p.Name)])
			texts, problems = []string{text}, append(problems, err)
		case "query":
			texts = query[p.Name]
			delete(undescribed, p.Name)
		case "header":
			texts = r.Header.Values(p.Name)
		}
		problems = append(problems, d.checkTexts(p.In+" parameter "+p.Name, p, texts))
	}
	for name := range undescribed {
		problems = append(problems, fmt.Errorf("the query parameter %s %w", name, errUndescribed))
	}
	if body != "" || op.RequestBody.Required {
		problems = append(problems, d.checkBody(op.RequestBody.Content, r.Header.Get("Content-Type"), body))
	}

	lacks := func(scheme string) bool { // reports whether the request has no credential of a scheme
		s := d.Components.SecuritySchemes[scheme]
		if s.Type == "http" {
			kind, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			return !strings.EqualFold(kind, s.Scheme)
		}
		return s.In != "header" || r.Header.Get(s.Name) == ""
	}
	if len(op.Security) > 0 && !slices.ContainsFunc(op.Security, func(alternative map[string][]string) bool {
		return !slices.ContainsFunc(slices.Collect(maps.Keys(alternative)), lacks)
	}) {
		problems = append(problems, errors.New("it has nothing of what the document asks for as security"))
	}
	return errors.Join(problems...)
}

func (d *openapi) checkAnswer(op *operation, a answer) error {
	response, ok := op.Responses[strconv.Itoa(a.status)]
	if !ok {
		return fmt.Errorf("the status %d %w", a.status, errUndescribed)
	}
	var problems []error
	for name, header := range response.Headers {
		problems = append(problems, d.checkTexts("header "+name, header, a.header.Values(name)))
	}
	if a.body != "" || len(response.Content) > 0 {
		problems = append(problems, d.checkBody(response.Content, a.header.Get("Content-Type"), a.body))
	}
	if a.header.Get("Content-Type") == "application/x-ndjson" {
		for line := range strings.Lines(a.body) {
			value, err := jsonschema.UnmarshalJSON(strings.NewReader(line))
			problems = append(problems, err, d.checkValue("line", described{Schema: "#/components/schemas/StreamResult"}, value))
		}
	}
	return errors.Join(problems...)
}

func (d *openapi) checkBody(types content, contentType, body string) error {
	name, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return fmt.Errorf("content type %q: %w", contentType, err)
	}
	mediaType, ok := types[name]
	if !ok {
		return fmt.Errorf("a body of type %s %w", name, errUndescribed)
	}
	var value any = body
	if name == "application/json" {
		value, err = jsonschema.UnmarshalJSON(strings.NewReader(body))
	}
	return errors.Join(err, d.checkValue("body", mediaType, value))
}

// checkTexts validates the values of a URL parameter or header, which may occur several times, against
// its description.
func (d *openapi) checkTexts(what string, p described, texts []string) error {
	if len(texts) == 0 {
		if p.Required {
			return fmt.Errorf("the %s is missing", what)
		}
		return nil
	}
	schema := d.schemas[p.Schema]
	if typeOf(schema) != "array" {
		if len(texts) > 1 {
			return fmt.Errorf("the %s is there %d times", what, len(texts))
		}
		return d.checkValue(what, p, typed(texts[0], schema))
	}
	if len(texts) == 1 && p.Explode != nil && !*p.Explode {
		texts = strings.Split(texts[0], ",")
	}
	values := make([]any, len(texts))
	for i, text := range texts {
		values[i] = typed(text, schema.Items2020)
	}
	return d.checkValue(what, p, values)
}

func (d *openapi) checkValue(what string, of described, value any) error {
	schema := d.schemas[of.Schema]
	if schema == nil {
		return fmt.Errorf("the %s has no schema", what)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("the %s: %w", what, err)
	}
	return nil
}

// typed returns the text as the number or boolean that its schema asks for. It returns the text
// unchanged if that is not possible.
func typed(text string, schema *jsonschema.Schema) any {
	if slices.Contains([]string{"integer", "number", "boolean"}, typeOf(schema)) {
		if value, err := jsonschema.UnmarshalJSON(strings.NewReader(text)); err == nil {
			return value
		}
	}
	return text
}

// typeOf returns the type that a schema asks for, directly or by reference.
func typeOf(schema *jsonschema.Schema) string {
	for ; schema != nil; schema = schema.Ref {
		if schema.Types != nil && !schema.Types.IsEmpty() {
			return schema.Types.ToStrings()[0]
		}
	}
	return ""
}
