// Package javascript holds the JavaScript client (README.md beside it) for the parts of
// the server that hand it to browsers. Package console serves the very files that are in
// the npm package, so there is one source of truth.
//
// It has no code of its own.
package javascript

import (
	"embed"
	"io/fs"
)

//go:embed src/*.js
var modules embed.FS

// Modules are the client's ES modules. They import each other by relative
// path, so they must be served from one folder; imgo.js is the entry.
func Modules() fs.FS {
	modules, err := fs.Sub(modules, "src")
	if err != nil {
		panic("javascript: the folder src is embedded: " + err.Error()) // only an invalid path is an error
	}
	return modules
}
