package main

import "slices"

// all are the mutants. A change is as short as it can be and still occur once, so that it survives changes around it.
func all() []mutant {
	return slices.Concat(claimMutants, holderMutants, operatorMutants, leaseMutants, clientMutants, waitMutants, togetherMutants, cacheMutants, httpMutants, msgMutants, grpcMutants, pgMutants)
}

// in is a change of one file.
func in(file, old, new string) []change { return []change{{file, old, new}} }

// script is the same of a verb's Lua.
func script(verb, old, new string) []change { return in("scripts/"+verb+".lua", old, new) }

func both(one, other []change) []change { return append(slices.Clone(one), other...) }

// root are tests of the root package.
func root(tests string) check { return check{".", tests} }

// cells are rows of the table of states and verbs.
func cells(verb, state string) check {
	return root("^TestVerbs$/^miniredis$/^" + verb + "$/" + state)
}

// onFake is a test's part on miniredis: it needs no server, and is enough where servers do not differ.
func onFake(test string) check { return root("^" + test + "$/^miniredis$") }
