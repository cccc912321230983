import type { Session } from '../../scripts/harness/sessions.js';

/** Workspaces as they are once there is a platform root; `index` keeps a second root out. */
export const schema = `
    create table workspaces (id uuid primary key default gen_random_uuid(), name text not null, status text not null default 'new',
        kind text not null default 'workspace', parent_id uuid references workspaces, deleted_at timestamptz);
    create unique index workspaces_parent_name on workspaces (coalesce(parent_id, '00000000-0000-0000-0000-000000000000'::uuid), name)
        where deleted_at is null;
    create table tokens (id int primary key, workspace_id uuid not null references workspaces on delete cascade, token text not null,
        unique (workspace_id, token));
    create table org_plugin_allowlist (id int primary key, org_id uuid not null references workspaces on delete cascade,
        plugin_name text not null, unique (org_id, plugin_name));
    create table plugin_calls (id int primary key, allowed_by int not null references org_plugin_allowlist on delete cascade)`;
export const index = "create unique index workspaces_one_platform on workspaces (kind) where kind = 'platform'";

export const member = '{"name": "Platform", "kind": "platform", "status": "offline", "parent_id": null}';

/** `rest` is more arguments, by name, after a comma. */
export const ensure = (rest = '', what = member): string =>
    `select object, outcome, row_count::int, data from ensure.ensure_only_v1('workspaces', '${what}', among => $$kind = 'platform'$$,
        demote => $$kind = 'workspace', parent_id = keeper.id$$, key => '{parent_id,name}',
        promote => $$kind = 'platform', parent_id = null$$${rest})`;

/** Outcomes with their numbers, as one line each. */
export const lines = (rows: Record<string, unknown>[]): string[] =>
    rows.map(({ object, outcome, row_count: count }) => [object, outcome, count].filter((word) => word !== null).map(String).join(' '));

export const one = async (session: Session, query: string): Promise<Record<string, unknown>> => (await session.run(query))[0] ?? {};
