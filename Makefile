.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help node migrate status test test-long chaos hunt bench bench-unique bench-stall bench-row bench-merge bench-roles race soak lint typecheck psql sql run start stop clean

# A dollar sign in Q reaches the shell as it is.
override Q := $(value Q)
export Q

run = node dist/cli.js

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

migrate: dist/cli.js ## install ensure in DATABASE_URL or in an embedded PostgreSQL (PG=14 to PG=18)
	@$(run) migrate

status: dist/cli.js ## say what is applied, and whether something is missing
	@$(run) status

test: dist/cli.js ## run the tests (PG=14 to PG=18, PG=all)
	@PG=$(PG) npm test --silent

test-long: dist/cli.js ## run what takes long and make test leaves out: stampedes, kill -9, traps and faults, random sequences, servers of their own
	@PG=$(PG) npm test --silent -- --long

chaos: dist/cli.js ## kill migrating replicas for 12 rounds of each kind (about 4 minutes)
	@PG=$(PG) PG_ENSURE_LONG=1 npm test --silent -- test/migrate/races

hunt: dist/cli.js ## check partitions against the model for long, race 40 ranges, the two-table case 5 times, a million rows made unique under load (about 20 minutes)
	@PG=$(PG) PG_ENSURE_LONG=5 PG_ENSURE_RUNS=60 PG_ENSURE_FIGURES=1 npm test --silent -- test/ensure_partitions/model test/ensure_partitions/races test/ensure_partitions/tree_races test/ensure_unique/live

bench: dist/cli.js ## measure what docs/partitions.md quotes (PG=14 to PG=18)
	@PG=$(PG) node dist/bench.js

bench-unique: dist/cli.js ## measure what docs/unique.md quotes (PG=14 to PG=18, ROWS=1000000 or ROWS=10000000)
	@PG=$(PG) ROWS=$(ROWS) node dist/bench-unique.js

bench-stall: dist/cli.js ## measure how long writers wait while a table is made unique (PG=14 to PG=18)
	@PG=$(PG) ROWS=$(ROWS) node dist/bench-stall.js

bench-row: dist/cli.js ## measure ensure_row_v1 beside what people write (PG=14 to PG=18)
	@PG=$(PG) node dist/bench-row.js

bench-merge: dist/cli.js ## measure what docs/merge.md quotes: 30,000 parents merged by three (PG=14 to PG=18)
	@PG=$(PG) node dist/bench-merge.js

bench-roles: dist/cli.js ## measure what fails of GRANT, ALTER ROLE and the like at once, beside ensure_*; 10,000 objects already right (PG=14 to PG=18)
	@PG=$(PG) node dist/bench-roles.js

race: dist/cli.js ## write docs/proof.md: every ensure_ function raced on all majors beside what people write (25 minutes); PG=18 and FUNCTION=name for less, SPEC=file for your own
	@if [ -n "$(SPEC)" ]; then PG=$(PG) $(run) race "$(SPEC)"; else PG=$(PG) FUNCTION='$(FUNCTION)' node dist/race.js; fi

soak: dist/cli.js ## 1,000 random kills of replicas, backends, the server and PgBouncer while twelve functions are called (KILLS=, SEED=, MINUTES=20)
	@PG=$(PG) KILLS=$(KILLS) SEED=$(SEED) MINUTES=$(MINUTES) node dist/soak.js

lint: node_modules/.package-lock.json ## check the style of the code
	@npm run --silent lint

typecheck: node_modules/.package-lock.json ## check the types
	@npm run --silent typecheck

psql: dist/cli.js ## open psql in the database
	@$(run) psql

sql: dist/cli.js ## run SQL without psql: make sql Q='select 1'
	@$(run) sql "$$Q"

run: dist/cli.js ## run a plan until it has no rows: make run Q='select * from ensure.plan_partitions_v1(…)'
	@$(run) run "$$Q"

start: dist/cli.js ## start the embedded server and print its URL
	@$(run) start

stop: dist/cli.js ## stop the embedded servers
	@$(run) stop

clean: ## stop the embedded servers, delete their data and dist/
	@if [ -f dist/cli.js ]; then $(run) stop --remove; fi
	@rm -rf dist

dist/cli.js: node_modules/.package-lock.json tsconfig.json tsconfig.build.json $(wildcard scripts/*.ts scripts/*/*.ts)
	@npm run --silent build
	@touch $@

node_modules/.package-lock.json: package-lock.json | node
	@echo 'installing packages' >&2
	@npm ci --loglevel=error >/dev/null
	@touch $@

node:
	@command -v node >/dev/null 2>&1 || { echo 'Node.js 20.19 or newer is needed: https://nodejs.org' >&2; exit 1; }
	@node -e 'var v = process.versions.node.split("."); process.exit(v[0] > 20 || v[0] == 20 && v[1] >= 19 ? 0 : 1)' \
		|| { echo "Node.js 20.19 or newer is needed, this is $$(node --version): https://nodejs.org" >&2; exit 1; }
