-- migrate:up
create function ensure._wanted_members_v1(
    role_name text,
    member_of jsonb,
    known text[],
    inherits boolean
)
returns table (parent text, wanted boolean, admin boolean, inherit boolean, set boolean)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _wanted_members_v1: of which roles role_name is to be a member, of which not, and how.
--
-- Returns  an option that is not said is null
-- Errors   0A000  an option that this server has not
--          22004, 22023, 42602, 42939  bad input
--          42704  no such role, nor one in known
declare
    c_place constant text := format('member_of of role "%s"', role_name);
    c_old constant boolean := current_setting('server_version_num')::integer < 160000;
    c_inherits constant boolean := coalesce(inherits, (select bool_and(r.rolinherit)
                                                       from pg_roles as r
                                                       where r.rolname = role_name), true);
    v_entry record;
begin
    for v_entry in
        select o.key, o.value, false as listed
        from jsonb_each(case when jsonb_typeof(member_of) = 'object' then member_of end) as o
        union all
        select a.element #>> '{}', case when jsonb_typeof(a.element) = 'string' then '{}'::jsonb
                                        else a.element end, true
        from jsonb_array_elements(case when jsonb_typeof(member_of) = 'array'
                                       then member_of end) as a (element)
        order by 1
    loop
        if jsonb_typeof(v_entry.value) not in ('object', 'null', 'boolean')
           or v_entry.listed and v_entry.value <> '{}' then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('%s has %s', c_place, left(v_entry.value::text, 200)),
                hint = 'Give a list of names, or an object with names as keys and as values true,'
                       ' {"admin": …, "inherit": …, "set": …} or, to revoke it, false; null'
                       ' leaves it alone.';
        end if;
        perform ensure._check_role_name_v1(v_entry.key, format('a role in %s', c_place));
        if to_regrole(quote_ident(v_entry.key)) is null and v_entry.key <> all (known)
           and v_entry.value not in ('null', 'false') then
            raise exception using
                errcode = 'undefined_object',
                message = format('role "%s" does not exist', v_entry.key),
                detail = format('It is in %s.', c_place),
                hint = 'Ensure it first, or mend the name.';
        end if;
        continue when v_entry.value = 'null';
        parent := v_entry.key;
        wanted := v_entry.value <> 'false';
        if jsonb_typeof(v_entry.value) = 'object' then
            perform ensure._check_wanted_v1(v_entry.value, format('"%s" of %s', parent, c_place),
                '{}', '{"admin": "boolean", "inherit": "boolean", "set": "boolean"}');
            admin := v_entry.value ->> 'admin';
            inherit := v_entry.value ->> 'inherit';
            set := v_entry.value ->> 'set';
        else
            admin := null;
            inherit := null;
            set := null;
        end if;
        if c_old and (set = false or inherit <> c_inherits) then
            raise exception using
                errcode = 'feature_not_supported',
                message = format('this server has no %s of a membership',
                                 case when set = false then 'SET' else 'INHERIT' end),
                detail = format('It is asked for "%s" in %s; PostgreSQL has it from 16 on.', parent,
                                c_place),
                hint = case when set = false then 'Leave it out.'
                            else 'Leave it out; before 16 INHERIT is an attribute of the member:'
                                 ' inherit of ensure_role_v1.' end;
        end if;
        return next;
    end loop;
end
$fn$;

comment on function ensure._wanted_members_v1(text, jsonb, text[], boolean) is
    'Of which roles role_name is to be a member, of which not, and how.';

create function ensure._diff_members_v1(
    role_name text,
    member_of jsonb,
    known text[],
    inherits boolean
)
returns setof ensure._change_v1
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $fn$
-- _diff_members_v1: the statements that make the role a member, and how, of the roles in member_of.
--
-- Returns  from 16 on each grantor has a membership of his own: an option holds when one of them
--          gives it, and is taken back from each. What others gave is not given again
-- Errors   as _wanted_members_v1
declare
    c_old constant boolean := current_setting('server_version_num')::integer < 160000;
    c_member constant oid := to_regrole(quote_ident(role_name));
    v_wanted record;
    v_change ensure._change_v1;
    v_revoked record;
    v_taken ensure._change_v1;
begin
    for v_wanted in
        select w.*, to_regrole(quote_ident(w.parent))::oid as oid, g.*,
               w.admin and not coalesce(g.has_admin, false)
               or w.inherit and not coalesce(g.has_inherit, false) and not c_old
               or w.set and not coalesce(g.has_set, false) and not c_old as more
        from ensure._wanted_members_v1(role_name, member_of, known, inherits) as w
        left join lateral (
            select coalesce(bool_and(pg_has_role(c_member, m.roleid, 'MEMBER')), -- as it is now
                            false) as is_member,
                   bool_or(m.admin_option) as has_admin,
                   bool_or((to_jsonb(m) ->> 'inherit_option')::boolean) as has_inherit,
                   bool_or((to_jsonb(m) ->> 'set_option')::boolean) as has_set,
                   coalesce(bool_or((to_jsonb(m) ->> 'inherit_option')::boolean) filter (
                       where x.mine), false) as own_inherit, -- of what this role granted
                   coalesce(bool_or((to_jsonb(m) ->> 'set_option')::boolean) filter (
                       where x.mine), false) as own_set
            from pg_auth_members as m
            cross join lateral (
                select case when ensure._superuser_v1() then m.grantor = 10 -- PostgreSQL's grantor
                            else pg_has_role(m.grantor, 'USAGE') end) as x (mine)
            where m.roleid = to_regrole(quote_ident(w.parent)) and m.member = c_member
        ) as g on true
        order by w.parent collate "C"
    loop
        v_change := row(format('membership of role %I in %I', role_name, v_wanted.parent),
                        'granted', null, null, null, null, true, null);
        if not ensure._superuser_v1() then
            if (select bool_or(r.rolsuper) from pg_roles as r where r.oid = v_wanted.oid) then
                v_change.missing := 'SUPERUSER';
            elsif v_wanted.oid is null then -- who creates it may grant it
                select l.* into v_change.missing, v_change.remedy
                from ensure._lacks_role_v1(v_wanted.parent) as l;
            elsif not pg_has_role(v_wanted.oid, 'USAGE WITH ADMIN OPTION')
                  and not (c_old and (select bool_or(r.rolcreaterole) from pg_roles as r
                                      where r.rolname = current_user)) then
                v_change.missing := format('ADMIN on role %I', v_wanted.parent);
                if v_wanted.parent <> current_user then -- no role is a member of itself
                    v_change.remedy := format('grant %I to %I with admin option', v_wanted.parent,
                                              current_user);
                end if;
            end if;
        end if;
        if v_wanted.wanted and (not v_wanted.is_member or v_wanted.more) then
            v_change.statement := concat(
                format('grant %I to %I', v_wanted.parent, role_name),
                case when c_old then case when v_wanted.admin then ' with admin option' end
                     else ' with ' || nullif(concat_ws(', ', -- what is not said stays as it is
                         case when v_wanted.admin and not coalesce(v_wanted.has_admin, false)
                              then 'admin true' end,
                         'inherit ' || case
                             when not v_wanted.is_member then v_wanted.inherit
                             when v_wanted.inherit and not v_wanted.has_inherit then true
                             when v_wanted.inherit = false then false
                             else v_wanted.own_inherit end,
                         'set ' || case
                             when not v_wanted.is_member then v_wanted.set
                             when v_wanted.set and not v_wanted.has_set then true
                             when v_wanted.set = false then false
                             else v_wanted.own_set end), '') end);
            return next v_change;
        end if;
        v_change.outcome := 'revoked';
        for v_revoked in
            select format('revoke %s%I from %I%s', o.words, v_wanted.parent, role_name,
                          case when not c_old
                               then format(' granted by %I', pg_get_userbyid(m.grantor)) end
                   ) as statement,
                   pg_get_userbyid(m.grantor) as grantor,
                   c_old or pg_has_role(m.grantor, 'USAGE') as may
            from pg_auth_members as m
            cross join lateral (values
                (not v_wanted.wanted, ''),
                (v_wanted.wanted and not v_wanted.admin and m.admin_option, 'admin option for '),
                (v_wanted.wanted and not v_wanted.inherit
                 and (to_jsonb(m) ->> 'inherit_option')::boolean, 'inherit option for '),
                (v_wanted.wanted and not v_wanted.set and (to_jsonb(m) ->> 'set_option')::boolean,
                 'set option for ')) as o (differs, words)
            where m.roleid = v_wanted.oid and m.member = c_member and o.differs
            order by m.grantor, o.words
        loop
            v_taken := v_change;
            v_taken.statement := v_revoked.statement;
            if not v_revoked.may and v_change.missing is null then
                v_taken.missing := format('to be role %I, who granted it,', v_revoked.grantor);
                v_taken.remedy := format('set role %I; %s; reset role', v_revoked.grantor,
                                         v_revoked.statement);
            end if;
            return next v_taken;
        end loop;
    end loop;
end
$fn$;

comment on function ensure._diff_members_v1(text, jsonb, text[], boolean) is
    'The statements that make the role a member, and how, of the roles in member_of.';

-- migrate:down
drop function ensure._diff_members_v1(text, jsonb, text[], boolean);
drop function ensure._wanted_members_v1(text, jsonb, text[], boolean);
