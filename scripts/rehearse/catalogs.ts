/** A system catalog, in SQL over its row `c`: what of it is shown, and how. */
export interface Catalog {
    name: string;
    key: string;
    /** Arguments of pg_identify_object, or what takes its place. */
    address?: string;
    label?: { type: string; identity: string };
    /** The object that the row is a part of, as catalog/oid. */
    of?: string;
    /** A part that says nothing of its own where its object is created or dropped too. */
    silent?: string;
    where?: string;
    /** Columns in words; those of `later` may have to wait for locks. */
    shown?: Record<string, string>;
    later?: Record<string, string>;
    /** Columns of which nothing but a change is told. */
    secret?: string[];
    ignored?: string[];
}

const role = (column: string): Record<string, string> => ({ [column]: `case c.${column} when 0 then 'public' else c.${column}::regrole::text end` });
const schema = (column: string): Record<string, string> => ({ [column]: `c.${column}::regnamespace::text` });
const type = (column: string): Record<string, string> => ({ [column]: `c.${column}::regtype::text` });
const owned = (prefix: string): Record<string, string> => ({ ...role(`${prefix}owner`), ...schema(`${prefix}namespace`) });
const ofRelation = (column: string): string => `'pg_class/' || c.${column}`;
const notToast = (column: string): string => (
    `not exists (select from pg_class as k where k.oid = c.${column} and k.relnamespace = 'pg_toast'::regnamespace)`
);
const members = {
    type: "'role membership'", identity: "format('%s in %s', c.member::regrole, c.roleid::regrole)",
};
const comment = (subid: string): Pick<Catalog, 'key' | 'label' | 'of' | 'silent'> => ({
    key: `c.classoid || '/' || c.objoid || '/' || ${subid}`, of: "c.classoid::regclass || '/' || c.objoid", silent: 'true',
    label: { type: "'comment'", identity: `(select i.type || ' ' || i.identity from pg_identify_object(c.classoid, c.objoid, ${subid}) as i)` },
});

export const catalogs: Catalog[] = [
    { name: 'pg_authid', key: 'c.oid', secret: ['rolpassword'] },
    {
        name: 'pg_auth_members', key: "c.roleid || '/' || c.member || '/' || c.grantor", label: members,
        shown: { ...role('roleid'), ...role('member'), ...role('grantor') },
    },
    {
        name: 'pg_db_role_setting', key: "c.setdatabase || '/' || c.setrole",
        label: {
            type: "'settings'",
            identity: `concat_ws(' in ', case when c.setrole = 0 then 'all roles' else 'role ' || c.setrole::regrole end,
                (select format('database %I', d.datname) from pg_database as d where d.oid = c.setdatabase))`,
        },
    },
    { name: 'pg_database', key: 'c.oid', shown: role('datdba'), ignored: ['datfrozenxid', 'datminmxid'] },
    { name: 'pg_tablespace', key: 'c.oid', shown: role('spcowner') },
    { name: 'pg_parameter_acl', key: 'c.oid' },
    { name: 'pg_namespace', key: 'c.oid', shown: role('nspowner') },
    { name: 'pg_extension', key: 'c.oid', shown: owned('ext') },
    {
        name: 'pg_class', key: 'c.oid', where: "c.relkind <> 'c' and c.relnamespace <> 'pg_toast'::regnamespace", shown: owned('rel'),
        later: { relpartbound: 'pg_get_expr(c.relpartbound, c.oid)' },
        ignored: ['relpages', 'reltuples', 'relallvisible', 'relallfrozen', 'relfrozenxid', 'relminmxid', 'reltype', 'reltoastrelid', 'relrewrite',
            'relnatts', 'relchecks', 'relhasindex', 'relhasrules', 'relhastriggers', 'relhassubclass'],
    },
    {
        name: 'pg_attribute', key: "c.attrelid || '/' || c.attnum", address: "'pg_class'::regclass, c.attrelid, c.attnum",
        of: ofRelation('attrelid'), silent: 'true', where: `c.attnum > 0 and not c.attisdropped and ${notToast('attrelid')}`,
        shown: { atttypid: 'format_type(c.atttypid, c.atttypmod)', attcollation: 'c.attcollation::regcollation::text' },
        ignored: ['atttypmod', 'attmissingval', 'atthasmissing', 'attcacheoff', 'attlen', 'attbyval', 'attalign'],
    },
    { name: 'pg_attrdef', key: 'c.oid', of: ofRelation('adrelid'), silent: 'true', later: { definition: 'pg_get_expr(c.adbin, c.adrelid)' }, ignored: ['adbin'] },
    {
        name: 'pg_constraint', key: 'c.oid', of: ofRelation('conrelid'), silent: "c.contype = 'n'", where: notToast('conrelid'),
        shown: { ...schema('connamespace'), conrelid: 'c.conrelid::regclass::text', confrelid: 'c.confrelid::regclass::text' },
        later: { definition: 'pg_get_constraintdef(c.oid)' },
        ignored: ['conbin', 'conkey', 'confkey', 'conpfeqop', 'conppeqop', 'conffeqop', 'conexclop', 'contypid'],
    },
    {
        name: 'pg_index', key: 'c.indexrelid', address: "'pg_class'::regclass, c.indexrelid, 0", of: ofRelation('indexrelid'), silent: 'true',
        where: notToast('indexrelid'), later: { definition: 'pg_get_indexdef(c.indexrelid)' },
        ignored: ['indkey', 'indexprs', 'indpred', 'indclass', 'indoption', 'indcollation', 'indcheckxmin'],
    },
    { name: 'pg_sequence', key: 'c.seqrelid', address: "'pg_class'::regclass, c.seqrelid, 0", of: ofRelation('seqrelid'), silent: 'true', shown: type('seqtypid') },
    {
        name: 'pg_inherits', key: "c.inhrelid || '/' || c.inhparent", of: ofRelation('inhrelid'),
        silent: "not exists (select from pg_class as k where k.oid = c.inhrelid and k.relkind in ('r', 'p', 'f'))",
        label: { type: "'inheritance'", identity: "format('%s of %s', c.inhrelid::regclass, c.inhparent::regclass)" },
    },
    { name: 'pg_foreign_table', key: 'c.ftrelid', address: "'pg_class'::regclass, c.ftrelid, 0", of: ofRelation('ftrelid'), silent: 'true', secret: ['ftoptions'] },
    {
        name: 'pg_rewrite', key: 'c.oid', of: ofRelation('ev_class'), silent: "c.rulename = '_RETURN'",
        later: { definition: 'pg_get_ruledef(c.oid)' }, ignored: ['ev_action', 'ev_qual'],
    },
    {
        name: 'pg_trigger', key: 'c.oid', of: ofRelation('tgrelid'), where: 'not c.tgisinternal', shown: { tgfoid: 'c.tgfoid::regprocedure::text' },
        later: { definition: 'pg_get_triggerdef(c.oid)' }, ignored: ['tgqual', 'tgargs'],
    },
    {
        name: 'pg_policy', key: 'c.oid', of: ofRelation('polrelid'),
        shown: { polroles: "(select array_to_json(array_agg(case r.r when 0 then 'public' else r.r::regrole::text end)) from unnest(c.polroles) as r (r))" },
        later: { using: 'pg_get_expr(c.polqual, c.polrelid)', 'with check': 'pg_get_expr(c.polwithcheck, c.polrelid)' }, ignored: ['polqual', 'polwithcheck'],
    },
    { name: 'pg_statistic_ext', key: 'c.oid', shown: owned('stx'), later: { definition: 'pg_get_statisticsobjdef(c.oid)' }, ignored: ['stxexprs', 'stxkeys'] },
    {
        name: 'pg_proc', key: 'c.oid', shown: { ...owned('pro'), ...type('prorettype') },
        later: { arguments: 'pg_get_function_arguments(c.oid)', body: 'pg_get_function_sqlbody(c.oid)' },
        ignored: ['proargdefaults', 'prosqlbody', 'proargtypes', 'proallargtypes'],
    },
    {
        name: 'pg_type', key: 'c.oid', shown: { ...owned('typ'), ...type('typbasetype') }, ignored: ['typdefaultbin', 'typarray'],
        where: `c.typtype <> 'm' and not exists (select from pg_type as e where e.typarray = c.oid)
            and (c.typrelid = 0 or exists (select from pg_class as k where k.oid = c.typrelid and k.relkind = 'c'))`,
    },
    {
        name: 'pg_enum', key: 'c.oid', of: "'pg_type/' || c.enumtypid", silent: 'true', shown: type('enumtypid'),
        label: { type: "'enum value'", identity: "format('%s of %s', quote_literal(c.enumlabel), c.enumtypid::regtype)" },
    },
    { name: 'pg_default_acl', key: 'c.oid', shown: { ...role('defaclrole'), ...schema('defaclnamespace') } },
    { name: 'pg_publication', key: 'c.oid', shown: role('pubowner') },
    { name: 'pg_publication_rel', key: 'c.oid', ignored: ['prqual'] },
    { name: 'pg_publication_namespace', key: 'c.oid' },
    { name: 'pg_subscription', key: 'c.oid', shown: role('subowner'), secret: ['subconninfo'] },
    { name: 'pg_foreign_data_wrapper', key: 'c.oid', shown: role('fdwowner'), secret: ['fdwoptions'] },
    { name: 'pg_foreign_server', key: 'c.oid', shown: role('srvowner'), secret: ['srvoptions'] },
    { name: 'pg_user_mapping', key: 'c.oid', secret: ['umoptions'] },
    { name: 'pg_event_trigger', key: 'c.oid', shown: role('evtowner') },
    { name: 'pg_operator', key: 'c.oid', shown: owned('opr') },
    { name: 'pg_opclass', key: 'c.oid', shown: owned('opc') },
    { name: 'pg_opfamily', key: 'c.oid', shown: owned('opf') },
    { name: 'pg_cast', key: 'c.oid' },
    { name: 'pg_collation', key: 'c.oid', shown: owned('coll') },
    { name: 'pg_conversion', key: 'c.oid', shown: owned('con') },
    { name: 'pg_language', key: 'c.oid', shown: role('lanowner') },
    { name: 'pg_am', key: 'c.oid' },
    { name: 'pg_transform', key: 'c.oid' },
    { name: 'pg_ts_config', key: 'c.oid', shown: owned('cfg') },
    { name: 'pg_ts_dict', key: 'c.oid', shown: owned('dict') },
    { name: 'pg_largeobject_metadata', key: 'c.oid', shown: role('lomowner') },
    { name: 'pg_description', ...comment('c.objsubid') },
    { name: 'pg_shdescription', ...comment('0') },
];

/** A row of a catalog, as one side sees it. */
export interface Seen {
    catalog: string;
    key: string;
    type: string | null;
    object: string | null;
    of: string | null;
    silent: boolean;
    extension: string | null;
    row: Record<string, unknown>;
    secrets: string[];
    /** Of the whole row: rows that differ in what is left out differ here. */
    digest: string;
}

const quoted = (text: string): string => `'${text.replaceAll('\'', '\'\'')}'`;
const list = (texts: string[]): string => `array[${texts.map(quoted).join(', ')}]::text[]`;
const pairs = (columns: Record<string, string>): string => (
    Object.entries(columns).map(([column, sql]) => `${quoted(column)}, ${sql}`).join(', ')
);

/** Rows that `which` says of, a condition on c. With `definitions` what may have to wait for locks is told too. */
function query(catalog: Catalog, which: string, definitions: boolean): string {
    const { name, key, address = `${quoted(name)}::regclass, c.oid, 0`, label, of = 'null', silent = 'false', where = 'true' } = catalog;
    const { shown = {}, later = {}, secret = [], ignored = [] } = catalog;
    const raw = `to_jsonb(c) - ${list([...ignored, ...Object.keys(later)])}`;
    const hashes = secret.map((column) => `jsonb_build_object(${quoted(column)}, sha256(convert_to(c.${column}::text, 'UTF8')))`);
    const row = [raw, `jsonb_build_object(${pairs(shown)})`, ...hashes, ...(definitions ? [`jsonb_build_object(${pairs(later)})`] : [])];
    const extension = key !== 'c.oid' ? 'null' : `(select e.extname from pg_depend as d join pg_extension as e on e.oid = d.refobjid
        where d.classid = ${quoted(name)}::regclass and d.objid = c.oid and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e')`;
    const identity = label ? `(select ${label.type} as type, ${label.identity} as identity)` : `pg_identify_object(${address})`;
    return `select ${quoted(name)} as catalog, (${key})::text as key, i.type, i.identity as object, (${of})::text as of, ${silent} as silent,
            ${extension}::text as extension, ${row.join(' || ')} as row, ${list(secret)} as secrets, md5(c::text) as digest
        from pg_catalog.${name} as c cross join lateral ${identity} as i where ${which} and ${where}`;
}

export const rowsQuery = (some: Catalog[], which: (catalog: Catalog) => string, definitions: boolean): string => (
    `select coalesce(json_agg(to_jsonb(r)), '[]')::text as found from (${some.map((one) => query(one, which(one), definitions)).join('\nunion all\n')}) as r`
);

/** Ids that a transaction and its subtransactions may have: from its own up to one that was given out later. */
export interface Span {
    first: string;
    end: string;
}

/** Of another transaction a row with an id in progress is not visible: one that is, is ours. */
const inProgress = (column: string, { first, end }: Span): string => {
    const after = `((c.${column}::text::bigint - ${first}) & 4294967295)`;
    return `case when ${after} < ${end} - ${first} then pg_xact_status((${first} + ${after})::text::xid8) = 'in progress' else false end`;
};

export const writtenBy = (span: Span) => (): string => inProgress('xmin', span);
export const removedBy = (span: Span) => (): string => inProgress('xmax', span);
export const withKeys = (keys: Map<string, string[]>) => ({ name, key }: Catalog): string => `(${key})::text = any (${list(keys.get(name) ?? [])})`;
