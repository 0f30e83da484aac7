/** The schema as text, from the catalogs: the same on every version of PostgreSQL. */
import type { Session } from "./postgres.ts";

const OBJECTS = `
with ours as (select oid from pg_namespace where nspname = $1)
select 'table ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
  || case when a.attnotnull then ' not null' else '' end
  || case when a.attidentity <> '' then ' identity' else '' end
  || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
  || coalesce(' collate ' || nullif((select collname from pg_collation where oid = a.attcollation), 'default'), '') as line
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace in (select oid from ours) and c.relkind in ('r', 'v')
union all
select 'options ' || c.relname || ' ' || array_to_string(c.reloptions, ', ')
from pg_class c where c.relnamespace in (select oid from ours) and c.relkind = 'r' and c.reloptions is not null
union all
select 'index ' || i.indexname || ' ' || regexp_replace(i.indexdef, '^.* USING ', '') from pg_indexes i where i.schemaname = $1
union all
select 'trigger ' || c.relname || ' ' || t.tgname || ' ' || regexp_replace(pg_get_triggerdef(t.oid), '^CREATE (CONSTRAINT )?TRIGGER \\S+ ', '')
from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace in (select oid from ours) and not t.tgisinternal
union all
select 'function ' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ') returns ' || pg_get_function_result(p.oid)
  || ' ' || p.provolatile::text || case when p.prosecdef then ' security definer' else '' end
  || coalesce(' set ' || array_to_string(p.proconfig, ', '), '')
  || case when has_function_privilege('public', p.oid, 'execute') then ' public' else '' end
from pg_proc p where p.pronamespace in (select oid from ours)`;

export async function dumpSchema(session: Session, schema: string): Promise<string> {
  const rows = await session.sql(OBJECTS, [schema]);
  return rows.map((row) => row.line as string).sort().join("\n") + "\n";
}
