# make test is everything, as CI runs it. CONTRIBUTING.md says what the other targets are for.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: test setup lint tests unit storm chaos mutants test-engines bench bench-quick docs clean

# Every module of go.work, by its directory, and their packages: named in one go, so that one module's tests run while another's wait.
MODULES = $(shell go list -m -f '{{.Dir}}' | sed 's|^$(CURDIR)$$|.|; s|^$(CURDIR)/||')
PACKAGES = $(patsubst ././%,./%,$(patsubst %,./%/...,$(MODULES)))
LINTERS = bin/staticcheck bin/errcheck bin/go-errorlint

test:
	@whole=$$SECONDS; \
	for step in setup lint tests; do \
		printf '\n== make %s\n' $$step; begin=$$SECONDS; \
		$(MAKE) --no-print-directory $$step; \
		printf '== make %s took %d s\n' $$step $$((SECONDS - begin)); \
	done; \
	printf '\n== make test took %d s\n' $$((SECONDS - whole))

# The tests start the servers that they need, so a service that the package brings is of no use: where it was started, it is
# stopped. RUNLEVEL=1 keeps most systems from starting it at all.
setup:
	@missing=(); \
	[ -n "$${REDIS_SERVER:-}" ] || command -v redis-server >/dev/null || missing+=(redis-server); \
	[ -n "$${POSTGRES_BIN:-}" ] || command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql); \
	command -v luacheck >/dev/null || missing+=(lua-check); \
	command -v curl >/dev/null || missing+=(curl); \
	if [ $${#missing[@]} -eq 0 ]; then echo "the servers, luacheck and curl are there"; exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo "install by hand, this is not Debian: $${missing[*]}"; exit 1; fi; \
	sudo=; [ "$$(id -u)" -eq 0 ] || sudo=sudo; \
	apt="$$sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q"; \
	set -x; \
	$$apt update </dev/null; \
	$$apt install -y --no-install-recommends "$${missing[@]}" </dev/null; \
	if [[ " $${missing[*]} " == *" redis-server "* ]] && systemctl is-active --quiet redis-server 2>/dev/null; then $$sudo systemctl disable --now redis-server; fi; \
	if [[ " $${missing[*]} " == *" postgresql "* ]]; then \
		if systemctl is-active --quiet postgresql 2>/dev/null; then $$sudo systemctl disable --now postgresql; fi; \
		pg_lsclusters -h | while read -r version name _ state _; do [ "$$state" != online ] || $$sudo pg_ctlcluster "$$version" "$$name" stop; done; \
	fi

lint: $(LINTERS)
	@failed=0; \
	unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w" $$unformatted; failed=1; fi; \
	packages="$(PACKAGES)"; echo "vet, staticcheck, errcheck, go-errorlint: $$packages"; \
	go vet $$packages || failed=1; \
	bin/staticcheck $$packages || failed=1; \
	bin/errcheck -ignoretests -exclude tools/errcheck.txt $$packages || failed=1; \
	bin/go-errorlint -test=false -asserts=false $$packages || failed=1; \
	exit $$failed
	COORD_REQUIRE_SERVERS=1 go test -count=1 -run '^TestLuacheck$$' .

$(LINTERS) &: tools/go.mod tools/go.sum
	GOWORK=off go -C tools build -o ../bin/ tool
	@touch $(LINTERS)

tests:
	@failed=0; packages="$(PACKAGES)"; \
	echo "COORD_REQUIRE_SERVERS=1 go test -count=1 -race $$packages"; \
	COORD_REQUIRE_SERVERS=1 go test -count=1 -race -timeout 15m $$(go list $$packages | grep -v /internal/model) || failed=1; \
	echo "go test ./internal/model   which has one goroutine, so that the race detector would only slow it down"; \
	go test -count=1 ./internal/model || failed=1; \
	echo "go test -run 'TestAllocations|TestBounds' ./bench ./internal/replaycache   which the race detector would spoil"; \
	COORD_REQUIRE_SERVERS=1 go test -count=1 -run '^(TestAllocations|TestBounds)$$' ./bench ./internal/replaycache || failed=1; \
	exit $$failed

# On every server of Debian's archives; ENGINES=valkey chooses by name. It takes the packages' files apart in bin/engines and installs nothing.
test-engines:
	go run ./internal/engines --only '$(ENGINES)'

# On miniredis alone, also where redis-server is installed.
unit:
	@root=$$PWD; failed=0; \
	for module in $(MODULES); do \
		cd $$root/$$module; echo "go test ./...   in $$module"; \
		REDIS_SERVER=none COORD_REQUIRE_SERVERS= go test ./... || failed=1; \
	done; exit $$failed

# The product with something broken, more than two hundred times, by an overlay: the tree is not touched. It fails unless a test
# catches each. A quarter of an hour; ARGS='-run fence' takes some of them, ARGS=-list shows them.
mutants:
	@go run ./internal/mutants $(ARGS)

# Twenty thousand operations with a ledger in PostgreSQL, and as many without, while machines (sets of connections) crash and stall and Redis
# loses everything; OPERATIONS=n for more. make test does a tenth of it.
OPERATIONS ?= 20000
storm:
	@cd coordpg && COORD_REQUIRE_SERVERS=1 COORDPG_OPERATIONS=$(OPERATIONS) go test -count=1 -v -timeout 60m -run '^TestManyOperationsThroughAStorm$$' .

# Faults on a real cluster, with the promises checked; CHAOS=30m for longer, CHAOS_SEED=n to repeat a schedule.
chaos:
	go run ./chaos

# Every figure against its target, in turns with what people use instead; some seven minutes on a machine that does nothing else.
bench:
	@mkdir -p bin
	go run ./bench --json bin/bench.json

# Rows 1 to 6 and 9 of it, with fewer rounds; less than a minute.
bench-quick:
	@mkdir -p bin
	go run ./bench --quick --json bin/bench-quick.json

docs:
	go test -run '^TestDocs|^TestACL|^Example' .
	go test ./examples/...

clean:
	rm -rf bin
