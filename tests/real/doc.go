// Package real tests with models and tokenizers that people use: `make test-real` fetches them (fetch.sh) and runs the tests, which
// have the build tag real.
package real
