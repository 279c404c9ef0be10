module policy

go 1.26

require (
	go.bytecodealliance.org/pkg v0.2.3
	wit_component v0.0.0
)

// The bindings that `make lobby-go` generates, and their runtime, which wit-bindgen includes.
replace (
	go.bytecodealliance.org/pkg => ../../../target/tools/wit-go
	wit_component => ../../../target/lobby/go
)
