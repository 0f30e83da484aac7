-- Writing. One statement, in one plpgsql function, reads what the writer saw, checks it and queues the row.

-- By its bytes; and an escaped key must be what etcd_key_text would write, or the write would show under another name
-- than it was given.
create function etcd_wal_key_allowed(_key text, _prefix bytea) returns boolean
language sql immutable as $$
  select _key <> '' and etcd_key_text(b) = _key and substr(b, 1, length(_prefix)) = _prefix
    and substr(b, 1, 15) <> '/_etcd-pg-sync/'::bytea
  from etcd_key_bytes(_key) b
$$;

-- Bytes of a value; null where it is not exactly one of text and bytes, or of a tombstone not none.
create function etcd_wal_value_bytes(_value text, _value_bytes bytea, _tombstone boolean) returns integer
language sql immutable as $$
  select case when num_nonnulls(_value, _value_bytes) = case when _tombstone then 0 else 1 end
    then coalesce(octet_length(_value), octet_length(_value_bytes), 0) end
$$;

-- The timeline of a base that is not the mirror's own.
create function etcd_wal_base_timeline(_key text, _base bigint, _timeline bigint) returns bigint
language sql stable as $$
  select coalesce(min(a.timeline), _timeline) from generate_series(1, _timeline) t
  join etcd_archive a on a.timeline = t and a.key = _key and a.revision = _base and not a.tombstone
$$;

-- What a writer of _key sees, in one snapshot; no row where the write is refused. Inlined into its callers: what is
-- rare is called, since a part of a plan costs its start even where it never runs.
--
-- seen_revision: a later own write of the key that is newer than this has to be followed by the drain; an older one
-- is in the base. The key's own newest event (row or tombstone) serves as well as the checkpoint of the snapshot,
-- since nothing happened to the key between the two, and does not touch the hot state row. gate.seen_revision is a
-- checkpoint too: it is written after the mirror had committed it, so who sees it sees that mirror.
-- A base that is given (OLD.revision) was read by an earlier snapshot: it alone says what was seen. With the gate's
-- newer one an own write between the two would count as seen and the row would conflict with it.
create function etcd_wal_seen(_key text, _bytes integer, _base bigint)
returns table (timeline bigint, revision bigint, seen_revision bigint, present boolean, parked boolean, room boolean)
language sql stable as $$
  select
    case when coalesce(_base, k.revision, 0) = coalesce(k.revision, 0) then coalesce(k.timeline, g.timeline)
      else etcd_wal_base_timeline(_key, _base, g.timeline) end,
    coalesce(_base, k.revision, 0),
    case when _base > 0 then _base else greatest(g.seen_revision, coalesce(k.revision, (
      select a.revision from etcd_archive a where a.timeline = g.timeline and a.key = _key
      order by a.revision desc limit 1
    ), 0)) end,
    k.key is not null,
    g.parked,
    g.refuse_after > coalesce(pg_catalog.pg_sequence_last_value('etcd_wal_id_seq'), 0)
  from etcd_sync_gate g
  left join etcd_kv k on k.key = _key
  where not g.one_way and octet_length(_key) <= g.max_key_bytes and _bytes <= g.max_value_bytes
    and (_key <> '' and starts_with(_key, g.prefix_text) and not starts_with(_key, '/_etcd-pg-sync/') and strpos(_key, '\x') = 0
      or etcd_wal_key_allowed(_key, g.prefix))
$$;

-- What has room is said by the housekeeping, etcd_keep_limit.
create function etcd_wal_refuse_full(_key text) returns void
language plpgsql set search_path from current as $$
declare
  wal_limit bigint := (select g.wal_limit from etcd_sync_gate g
    where g.refuse_after <= coalesce(pg_sequence_last_value('etcd_wal_id_seq'), 0));
begin
  if wal_limit is not null then
    raise exception using errcode = 'ZE013',
      message = format('Cannot write key %L: the WAL is full, its limit is %s writes that wait for etcd (--wal-limit)',
        case when length(_key) > 100 then left(_key, 100) || '…' else _key end, wal_limit),
      hint = 'Try again when etcd-pg-sync has caught up; ''etcd-pg-sync status'' says what it waits for.';
  end if;
end $$;

-- Says why a write was refused.
create function etcd_wal_refuse(_key text, _bytes integer, _insert boolean) returns void
language plpgsql set search_path from current as $$
declare
  g etcd_sync_gate;
  shown text := case when length(_key) > 100 then left(_key, 100) || '…' else _key end;
begin
  select * into g from etcd_sync_gate;
  if not found then
    raise exception using errcode = 'ZE004', message = format('Cannot write key %L: etcd-pg-sync has not been started on this schema', shown);
  elsif g.one_way then
    raise exception using errcode = 'ZE004', message = format('Cannot write key %L: this stream is one-way, etcd to PostgreSQL', shown);
  elsif _key is null or _key = '' then
    raise exception using errcode = 'ZE002', message = format('Cannot write key %L: a key has 1 to %s bytes', shown, g.max_key_bytes);
  elsif octet_length(_key) > g.max_key_bytes then
    raise exception using errcode = 'ZE002',
      message = format('Cannot write key %L of %s bytes: a key has 1 to %s bytes', shown, octet_length(_key), g.max_key_bytes);
  elsif _bytes is null then
    raise exception using errcode = 'ZE003',
      message = format('Cannot write key %L: exactly one of value and value_bytes must be given, for a tombstone none', shown),
      hint = 'To remove a key, delete it.';
  elsif _bytes > g.max_value_bytes then
    raise exception using errcode = 'ZE003',
      message = format('Cannot write key %L: its value has %s bytes, the limit is %s', shown, _bytes, g.max_value_bytes);
  elsif etcd_key_text(etcd_key_bytes(_key)) <> _key then
    raise exception using errcode = 'ZE002',
      message = format('Cannot write key %L: its escapes stand for %L', shown, etcd_key_text(etcd_key_bytes(_key))),
      hint = 'A backslash before xHH is written \x5c, and only bytes that are not UTF-8 are escaped.';
  elsif substr(etcd_key_bytes(_key), 1, 15) = '/_etcd-pg-sync/'::bytea then
    raise exception using errcode = 'ZE001', message = format('Cannot write key %L: keys under ''/_etcd-pg-sync/'' are the program''s own', shown);
  elsif substr(etcd_key_bytes(_key), 1, length(g.prefix)) <> g.prefix then
    raise exception using errcode = 'ZE001',
      message = format('Cannot write key %L: this stream''s keys begin with %L', shown, etcd_key_text(g.prefix));
  elsif _insert then
    raise exception using errcode = 'unique_violation', message = format('Cannot insert key %L: it is there already', shown),
      hint = 'Use UPDATE, or etcd_set(key, value) for either.';
  end if;
  raise exception using errcode = 'ZE007',
    message = format('Cannot write key %L: its earlier write in this transaction is settled, or compares with another revision', shown);
end $$;

-- A transaction that deletes many keys has to say so. The counter lives in a setting that ends with the transaction
-- and goes back with a savepoint; where it passes the limit, the rows themselves are counted.
create function etcd_wal_count_delete(_key text) returns void
language plpgsql set search_path from current as $$
declare
  deletes bigint := coalesce(nullif(current_setting('etcd_sync.deletes', true), ''), '0')::bigint + 1;
  max_deletes bigint := (select g.max_deletes from etcd_sync_gate g);
begin
  if deletes > max_deletes and coalesce(current_setting('etcd_sync.confirm_mass_delete', true), '') not in ('on', 'true', '1', 'yes') then
    deletes := 1 + (select count(*) from etcd_wal w
      where w.txid = pg_current_xact_id() and w.ts = transaction_timestamp() and w.tombstone and w.key <> _key);
    if deletes > max_deletes then
      raise exception using errcode = 'ZE005',
        message = format('Cannot delete more than %s keys in one transaction without a confirmation', max_deletes),
        hint = 'If it is meant: set local etcd_sync.confirm_mass_delete = on';
    end if;
  end if;
  perform set_config('etcd_sync.deletes', deletes::text, true);
end $$;

-- A NOTIFY serializes the commits of all who send one, so it is sent only while the drain sleeps.
create function etcd_wal_wake() returns boolean
language plpgsql set search_path from current as $$
begin
  if coalesce(current_setting('etcd_sync.notify', true), '') <> 'off' then
    perform pg_notify('etcd_sync_wal', current_schema()::text);
  end if;
  return true;
end $$;

-- The header of this transaction: made by its first write, moved to its last one at commit.
create function etcd_wal_header(_seq bigint, _first_id bigint) returns void
language plpgsql set search_path from current as $$
begin
  insert into etcd_wal_tx as t (seq, txid, ts, first_id)
  values (_seq, pg_current_xact_id(), transaction_timestamp(), _first_id)
  on conflict (txid, ts) do update set moved = true, first_id = least(t.first_id, excluded.first_id)
  where not t.moved or excluded.first_id < t.first_id;
end $$;

-- This transaction's own row of the key. A plan that was made while the table was small must serve a transaction that
-- makes it large: no sequential scan, and not by the index on txid, which the planner prefers (20,000 writes took 17 s).
create function etcd_wal_own(_key text) returns bigint
language plpgsql set search_path from current set enable_seqscan = off set jit = off as $$
begin
  return (
    select w.id from etcd_wal w
    where w.key = _key and w.ts = transaction_timestamp() and w.txid is not distinct from pg_current_xact_id()
  );
end $$;

-- Replaces this transaction's own pending write of the key, which keeps its id and base; strict if either was.
-- Returns its id, null where there is none.
create function etcd_wal_replace(
  _key text, _value text, _value_bytes bytea, _tombstone boolean,
  _base bigint, _strict boolean, _keep_lease boolean, _insert boolean
) returns bigint
language plpgsql set search_path from current as $$
declare
  _bytes integer := etcd_wal_value_bytes(_value, _value_bytes, _tombstone);
  _id bigint := etcd_wal_own(_key);
begin
  if _id is null then
    return null;
  end if;
  update etcd_wal w set value = _value, value_bytes = _value_bytes, tombstone = _tombstone,
    keep_lease = w.keep_lease and _keep_lease, strict = w.strict or _strict
  from etcd_wal_seen(_key, _bytes, _base) s
  where w.id = _id and w.status = 'pending'
    and case when _insert then w.tombstone when _strict then w.revision = s.revision else true end
    and (not s.parked or etcd_wal_wake());
  if not found then
    perform etcd_wal_refuse(_key, _bytes, _insert);
  end if;
  perform etcd_wal_header(_id, _id);
  return _id;
end $$;

-- Queues one write and returns its id, whatever is given and whatever the transaction has written before. _base: null =
-- what the mirror has now; else OLD.revision, or what compare-and-set asks for. _insert: the key must not be there.
-- _ticket: the id that a new row gets, null = it is drawn here.
create function etcd_wal_write(
  _key text, _value text, _value_bytes bytea, _tombstone boolean,
  _base bigint, _strict boolean, _keep_lease boolean, _insert boolean, _ticket bigint default null
) returns bigint
language plpgsql set search_path from current as $$
declare
  _bytes integer := etcd_wal_value_bytes(_value, _value_bytes, _tombstone);
  _id bigint;
begin
  if pg_current_xact_id_if_assigned() is not null then -- else it has no row yet
    _id := etcd_wal_replace(_key, _value, _value_bytes, _tombstone, _base, _strict, _keep_lease, _insert);
  end if;
  if _id is null then
    insert into etcd_wal (id, txid, ts, key, value, value_bytes, tombstone, keep_lease, timeline, revision, seen_revision, strict)
    select coalesce(_ticket, nextval('etcd_wal_id_seq')), pg_current_xact_id(), transaction_timestamp(), _key, _value, _value_bytes,
      _tombstone, _keep_lease, s.timeline, s.revision, s.seen_revision, _strict
    from etcd_wal_seen(_key, _bytes, _base) s
    where s.room and not (_insert and s.present) and (not s.parked or etcd_wal_wake())
    returning id into _id;
    if _id is null then
      perform etcd_wal_refuse_full(_key);
      perform etcd_wal_refuse(_key, _bytes, _insert);
    end if;
    perform etcd_wal_header(_id, _id);
  end if;
  if _tombstone then
    perform etcd_wal_count_delete(_key);
  end if;
  return _id;
end $$;

-- The ticket of a write that is under way. Bound when it is made (begin atomic), see etcd_set.
create function etcd_wal_ticket() returns bigint
language sql volatile
begin atomic
  select pg_catalog.nextval('etcd_wal_id_seq');
end;

-- What the first writer of a transaction sees of a key without escapes; no row: etcd_wal_write has to look closer.
-- Each condition costs each write: `awake` and `deleted` sum up what is rare.
create function etcd_wal_glance(_key text, _bytes integer, _ticket bigint)
returns table (timeline bigint, revision bigint, seen_revision bigint)
language sql stable
begin atomic
  select coalesce(k.timeline, g.timeline), coalesce(k.revision, 0), greatest(k.revision, g.seen_revision)
  from etcd_sync_gate g
  left join etcd_kv k on k.key = _key
  where g.awake and _ticket <= g.refuse_after
    and _bytes <= g.max_value_bytes
    and octet_length(_key) <= g.max_key_bytes and _key <> '' and strpos(_key, '\x') = 0
    and starts_with(_key, g.prefix_text) and not starts_with(_key, '/_etcd-pg-sync/')
    and (k.key is not null or not g.deleted);
end;

-- A plain INSERT INTO etcd_wal (key, value) by an application: the same guards, the rest filled in.
create function etcd_wal_insert() returns trigger
language plpgsql security definer set search_path from current as $$
declare
  _bytes integer := etcd_wal_value_bytes(new.value, new.value_bytes, new.tombstone);
  seen record;
begin
  if etcd_wal_replace(new.key, new.value, new.value_bytes, new.tombstone, new.revision, new."strict", false, false) is null then
    select * into seen from etcd_wal_seen(new.key, _bytes, new.revision) s where s.room and (not s.parked or etcd_wal_wake());
    if not found then
      perform etcd_wal_refuse_full(new.key);
      perform etcd_wal_refuse(new.key, _bytes, false);
    end if;
    perform etcd_wal_header(new.id, new.id);
    new.txid := pg_current_xact_id();
    new.ts := transaction_timestamp();
    new.timeline := seen.timeline;
    new.revision := seen.revision;
    new.seen_revision := seen.seen_revision;
    new.status := 'pending';
  end if;
  if new.tombstone then
    perform etcd_wal_count_delete(new.key);
  end if;
  return case when new.txid is not null then new end;
end $$;
create trigger etcd_wal_insert before insert on etcd_wal
for each row when (new.txid is null) execute function etcd_wal_insert();

-- etcd_set and etcd_delete. Without a revision: the upsert. With one: compare-and-set on exactly that, 0 = must not exist.
--
-- The common case, the first write of a transaction with no base given, is two small statements of their own; all else
-- is etcd_wal_write's. A SET clause would cost a tenth of it (before PostgreSQL 16 its end visits every setting), and so
-- would one function more on the way, so the three are made from one text, and nothing in it is looked up by
-- search_path: every name is qualified, no operator is used,
-- and a null has its type: of an untyped one PostgreSQL thinks as of a text, and would prefer somebody's overload.
do $do$
declare
  f record;
begin
  for f in select * from (values
    ('etcd_set(key text, value text, revision bigint default null)', 'value, null::pg_catalog.bytea', 'false', 'pg_catalog.octet_length(value)', 'Queues a put'),
    ('etcd_set(key text, value bytea, revision bigint default null)', 'null::pg_catalog.text, value', 'false', 'pg_catalog.octet_length(value)', 'Queues a put of bytes'),
    ('etcd_delete(key text, revision bigint default null)', 'null::pg_catalog.text, null::pg_catalog.bytea', 'true', '0', 'Queues a delete')
  ) as f(signature, value, tombstone, bytes, what) loop
    execute format($make$
      create function %1$s returns bigint
      language plpgsql security definer as $etcd_pg_sync$
      #variable_conflict use_variable
      declare
        _id bigint;
      begin
        if revision is null and pg_catalog.pg_current_xact_id_if_assigned() is null then
          _id := %5$I.etcd_wal_ticket();
          insert into %5$I.etcd_wal (id, txid, ts, key, value, value_bytes, tombstone, timeline, revision, seen_revision)
          select _id, pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp(), key, %2$s, %3$s, s.timeline, s.revision, s.seen_revision
          from %5$I.etcd_wal_glance(key, %4$s, _id) s;
          if found then
            insert into %5$I.etcd_wal_tx (seq, txid, ts, first_id)
            values (_id, pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp(), _id);
            if %3$s then
              perform %5$I.etcd_wal_count_delete(key);
            end if;
            return _id;
          end if;
        end if;
        return %5$I.etcd_wal_write(key, %2$s, %3$s, revision, revision is not null, false, false, _id);
      end $etcd_pg_sync$ $make$, f.signature, f.value, f.tombstone, f.bytes, current_schema());
    execute format('comment on function %s is %L', replace(f.signature, ' default null', ''),
      f.what || ', returns its WAL id; with a revision: compare-and-set' || case when f.tombstone = 'false' then ' (0 = must not exist)' else '' end);
  end loop;
end $do$;

create function etcd_wait(wal_id bigint, timeout interval default '10 seconds') returns etcd_wal
language plpgsql security definer set search_path from current as $$
declare
  w etcd_wal;
  deadline timestamptz := clock_timestamp() + timeout;
  pause double precision := 0.001;
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using errcode = 'ZE010',
      message = format('Cannot wait for write %s: a %s transaction does not see it settle, READ COMMITTED does', wal_id, current_setting('transaction_isolation'));
  end if;
  loop
    select * into w from etcd_wal where id = wal_id;
    if not found then
      raise exception using errcode = 'ZE010', message = format('Cannot wait for write %s: there is no such row in etcd_wal', wal_id);
    elsif w.status = 'pending' and w.txid = pg_current_xact_id_if_assigned() and w.ts = transaction_timestamp() then
      raise exception using errcode = 'ZE010',
        message = format('Cannot wait for write %s in the transaction that wrote it: commit first', wal_id);
    elsif w.status in ('conflict', 'failed') or w.status = 'success' and exists (
        select from etcd_sync_state s where s.state in ('streaming', 'draining')
          and (s.timeline, s.revision) >= (w.timeline, w.result_revision)) then
      return w;
    elsif clock_timestamp() >= deadline then
      raise exception using errcode = 'ZE009', message = format('Write %s was not settled and mirrored within %s: it is %s', wal_id, timeout, w.status);
    end if;
    perform pg_sleep(pause);
    pause := least(pause * 1.5, 0.1);
  end loop;
end $$;
comment on function etcd_wait(bigint, interval) is 'Returns the WAL row once it is settled and mirrored: read your writes';

-- The rows of the transaction of a conflict or failed row that did not arrive.
create function etcd_wal_unsettled_ids(wal_id bigint) returns bigint[]
language plpgsql set search_path from current as $$
declare
  ids bigint[];
begin
  ids := array(
    select w.id from etcd_wal asked
    join etcd_wal w on w.txid = asked.txid and w.ts = asked.ts and w.status in ('conflict', 'failed')
    where asked.id = wal_id and asked.status in ('conflict', 'failed')
    order by w.id for update of w);
  if ids = '{}' then
    raise exception using errcode = 'ZE007',
      message = format('Cannot retry or discard write %s: it is %s, wanted is conflict or failed', wal_id,
        coalesce((select status from etcd_wal where id = wal_id), 'not there'));
  end if;
  return ids;
end $$;

create function etcd_retry(wal_id bigint) returns bigint
language plpgsql security definer set search_path from current as $$
declare
  ids bigint[] := etcd_wal_unsettled_ids(wal_id);
  w etcd_wal;
  seen record;
begin
  for w in select * from etcd_wal r where r.id = any (ids) order by r.id loop
    select * into seen from etcd_wal_seen(w.key, 0, null) s where not s.parked or etcd_wal_wake();
    if not found then
      perform etcd_wal_refuse(w.key, 0, false);
    end if;
    update etcd_wal r set status = 'pending', txid = pg_current_xact_id(), ts = transaction_timestamp(),
      timeline = seen.timeline, revision = seen.revision, seen_revision = seen.seen_revision, retry_count = r.retry_count + 1,
      expected_revision = null, result_revision = null, error_message = null, batch_id = null, settled_at = null
    where r.id = w.id;
  end loop;
  perform etcd_wal_header(nextval('etcd_wal_id_seq'), ids[1]);
  return cardinality(ids);
exception when unique_violation then
  raise exception using errcode = 'ZE007',
    message = format('Cannot retry write %s: this transaction has written one of its keys already', wal_id);
end $$;
comment on function etcd_retry(bigint) is 'Queues the whole transaction of a conflict or failed row again, on today''s revisions; returns its number of rows';

create function etcd_discard(wal_id bigint) returns bigint
language plpgsql security definer set search_path from current as $$
declare
  ids bigint[] := etcd_wal_unsettled_ids(wal_id);
begin
  insert into etcd_sync_event (kind, timeline, detail)
  select 'discarded', g.timeline, jsonb_build_object('wal_ids', to_jsonb(ids), 'by', session_user) from etcd_sync_gate g;
  delete from etcd_wal where id = any (ids);
  return cardinality(ids);
end $$;
comment on function etcd_discard(bigint) is 'Gives up the whole transaction of a conflict or failed row; returns its number of rows';
