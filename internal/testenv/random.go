package testenv

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

// World is something that random operations are tried on, beside a model of what it should do.
type World interface {
	Step()   // one operation
	Check()  // compares the world with its model, when all is quiet
	Finish() // ends it
}

// RandomOperations tries so many operations, or as many as the environment variable NAME_OPS says, on worlds that get a number of
// them each and have a clock of their own. The message of a failure has to name the seed; NAME_SEED runs that seed alone.
func RandomOperations(t *testing.T, name string, ops, each int, world func(t *testing.T, rng *rand.Rand, seed uint64) World) {
	t.Helper()
	run := func(seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			w := world(t, rand.New(rand.NewPCG(seed, 99)), seed)
			for range each {
				w.Step()
				synctest.Wait()
				if w.Check(); t.Failed() {
					break
				}
			}
			w.Finish()
		})
	}
	if seed := Number(t, name+"_SEED", -1); seed >= 0 {
		run(uint64(seed))
		return
	}
	for seed := range Number(t, name+"_OPS", ops) / each {
		if run(uint64(seed)); t.Failed() {
			return
		}
	}
}
