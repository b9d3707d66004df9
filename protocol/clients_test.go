package protocol_test

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"testing"
)

// constants returns the constants that Go files of one package declare, by name.
func constants(t *testing.T, paths ...string) map[string]constant.Value {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for _, path := range paths {
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	pkg, err := new(types.Config).Check("", fset, files, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]constant.Value{}
	for _, name := range pkg.Scope().Names() {
		if c, ok := pkg.Scope().Lookup(name).(*types.Const); ok {
			all[name] = c.Val()
		}
	}
	return all
}

// TestGoClient compares the codes of the Go client, which has its own, with those of the server.
func TestGoClient(t *testing.T) {
	client := constants(t, "../clients/go/raw/codes.go")
	server := constants(t, "protocol.go", "close.go")
	if len(client) == 0 {
		t.Fatal("the client has no codes")
	}
	for name, code := range client {
		want, ok := server[name]
		if !ok || !constant.Compare(code, token.EQL, want) {
			t.Errorf("%s is %v in the client and %v in the server", name, code, want)
		}
	}
}
