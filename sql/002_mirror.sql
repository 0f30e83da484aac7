-- Keys are bytes in etcd and text in SQL. A key that is valid UTF-8 without NUL and without a literal \xHH (two
-- lower-case hex digits) is itself; in any other, each offending byte, and the backslash of a literal \xHH, is
-- written \xHH. One to one: an escape can only begin at a backslash that the codec wrote.

create function etcd_key_bytes(key text) returns bytea
language plpgsql immutable strict parallel safe set search_path from current as $$
begin
  if strpos(key, '\x') = 0 then
    return convert_to(key, 'UTF8');
  end if;
  return (
    select string_agg(convert_to(s.plain, 'UTF8') || coalesce(decode(substr(e.match[1], 3), 'hex'), ''), '' order by n)
    from regexp_split_to_table(key, '\\x[0-9a-f]{2}') with ordinality as s(plain, n)
    left join regexp_matches(key, '\\x[0-9a-f]{2}', 'g') with ordinality as e(match, n) using (n)
  );
end $$;
comment on function etcd_key_bytes(text) is 'The bytes in etcd of a key as SQL writes it';

create function etcd_key_text(key bytea) returns text
language plpgsql immutable strict parallel safe set search_path from current as $$
declare
  result text := '';
  total integer := length(key);
  at integer := 0;
  lead integer;
  size integer;
begin
  while at < total loop
    lead := get_byte(key, at);
    size := case when lead between 1 and 127 then 1 when lead between 194 and 223 then 2
      when lead between 224 and 239 then 3 when lead between 240 and 244 then 4 else 0 end;
    if at + size > total then
      size := 0;
    end if;
    -- the second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF
    if size > 1 and get_byte(key, at + 1) not between
        (case lead when 224 then 160 when 240 then 144 else 128 end)
        and (case lead when 237 then 159 when 244 then 143 else 191 end) then
      size := 0;
    end if;
    if size > 2 and get_byte(key, at + 2) not between 128 and 191 then
      size := 0;
    end if;
    if size > 3 and get_byte(key, at + 3) not between 128 and 191 then
      size := 0;
    end if;
    if size = 0 or (lead = 92 and encode(substr(key, at + 2, 3), 'escape') ~ '^x[0-9a-f]{2}$') then
      result := result || '\x' || lpad(to_hex(lead), 2, '0');
      at := at + 1;
    else
      result := result || convert_from(substr(key, at + 1, size), 'UTF8');
      at := at + size;
    end if;
  end loop;
  return result;
end $$;
comment on function etcd_key_text(bytea) is 'A key of etcd as SQL writes it';

create table etcd_kv (
  key text collate "C" primary key,
  value text,
  value_bytes bytea,
  revision bigint not null,
  create_revision bigint not null,
  version bigint not null,
  lease bigint not null,
  timeline bigint not null,
  ts timestamptz not null default now(),
  check ((value is null) <> (value_bytes is null))
) with (fillfactor = 85);
comment on table etcd_kv is 'What etcd has, at the checkpoint. Only the program writes it.';

-- Escaped keys sort elsewhere than in etcd, so a scan finds them by their bytes.
create index etcd_kv_escaped on etcd_kv (etcd_key_bytes(key)) where strpos(key, '\x') > 0;

create table etcd_archive (
  timeline bigint not null,
  key text collate "C" not null,
  revision bigint not null,
  until_revision bigint,                 -- null: a tombstone, or alive to the end of its timeline
  tombstone boolean not null,
  value text,
  value_bytes bytea,
  create_revision bigint not null,
  version bigint not null,
  lease bigint not null,
  ts timestamptz not null default now(),
  primary key (timeline, key, revision)
);
comment on table etcd_archive is 'What was: every version that was overwritten or deleted, and every tombstone. Only the program writes it.';

create view etcd_history as
select timeline, key, value, value_bytes, revision, create_revision, version, lease, tombstone, until_revision, ts
from etcd_archive
union all
select timeline, key, value, value_bytes, revision, create_revision, version, lease, false, null, ts
from etcd_kv;
comment on view etcd_history is 'Every event seen. Where history is not known (a scan), etcd_sync_event says so.';
