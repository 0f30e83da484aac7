-- The drain's side of the WAL. Called by the program, which alone has the rights.

-- The first statement of each of the drain's transactions: locks the state row, and stops who is no longer the writer.
-- Not alone: the mirror may commit meanwhile.
create function etcd_drain_fence(_epoch bigint, _holder uuid, _batch bigint, _alone boolean default true) returns etcd_sync_state
language plpgsql set search_path from current as $$
declare
  state etcd_sync_state;
begin
  if _alone then
    select * into state from etcd_sync_state s where s.epoch = _epoch and s.holder = _holder and s.batch_id = _batch for update;
  else
    select * into state from etcd_sync_state s where s.epoch = _epoch and s.holder = _holder and s.batch_id = _batch for key share;
  end if;
  if not found then
    raise exception using errcode = 'ZE100', message = format('Fenced: epoch %s is no longer the writer of batch %s', _epoch, _batch);
  end if;
  return state;
end $$;

-- The rows were applied in etcd at _revision. A transaction that is being sent in parts keeps its header.
-- In plpgsql, which keeps its plan: SQL would plan it for each batch.
create function etcd_drain_applied(_batch bigint, _revision bigint, _ids bigint[], _expected bigint[]) returns void
language plpgsql set search_path from current as $$
begin
  with settled as (
    update etcd_wal w set status = 'success', expected_revision = e.expected, result_revision = _revision,
      batch_id = _batch, error_message = null, settled_at = clock_timestamp()
    from unnest(_ids, _expected) as e(id, expected)
    where w.id = e.id and w.status = 'pending'
    returning w.id, w.txid, w.ts
  ), tx as (
    select txid, ts, max(id) as last_id from settled group by txid, ts
  ), parts as (
    update etcd_wal_tx t set split_id = tx.last_id + 1 from tx
    where t.txid = tx.txid and t.ts = tx.ts and t.split_id is not null
  )
  delete from etcd_wal_tx t using tx where t.txid = tx.txid and t.ts = tx.ts and t.split_id is null;
end $$;

-- As etcd_drain_applied, for a batch of which PostgreSQL had lost claim and settlement: the headers stay, for the order.
create function etcd_drain_recovered(_batch bigint, _revision bigint, _ids bigint[], _expected bigint[]) returns void
language sql set search_path from current as $$
  update etcd_wal w set status = 'success', expected_revision = e.expected, result_revision = _revision,
    batch_id = _batch, error_message = null, settled_at = clock_timestamp()
  from unnest(_ids, _expected) as e(id, expected)
  where w.id = e.id and w.status = 'pending'
$$;

-- Pending rows that came before a recovered row of their key: sent now, they would overwrite it.
create function etcd_drain_overtaken(_recovered bigint[]) returns setof bigint
language sql stable set search_path from current as $$
  select distinct p.id
  from unnest(_recovered) as u(id) join etcd_wal r using (id) join etcd_wal_tx rt on rt.txid = r.txid and rt.ts = r.ts
  join etcd_wal p on p.key = r.key and p.status = 'pending' join etcd_wal_tx pt on pt.txid = p.txid and pt.ts = p.ts
  where pt.seq < rt.seq
$$;

-- After a recovery: no header without pending rows, and none that hides what is left of a transaction sent in parts.
create function etcd_drain_mend_headers() returns void
language sql set search_path from current as $$
  delete from etcd_wal_tx t
  where not exists (select from etcd_wal w where w.txid = t.txid and w.ts = t.ts and w.status = 'pending');
  update etcd_wal_tx t
  set split_id = (select min(w.id) from etcd_wal w where w.txid = t.txid and w.ts = t.ts and w.status = 'pending')
  where exists (select from etcd_wal w where w.txid = t.txid and w.ts = t.ts and w.status = 'success')
$$;

-- _status conflict or failed, for the whole transaction of each of the rows, and all that is left of one that was split.
create function etcd_drain_lost(_status text, _batch bigint, _ids bigint[], _revisions bigint[], _messages text[]) returns void
language sql set search_path from current as $$
  with lost as materialized (
    select w.id, w.txid, w.ts, w.key, w.timeline, l.revision, l.message,
      row_number() over (partition by w.txid, w.ts order by w.id) as nth
    from unnest(_ids, _revisions, _messages) as l(id, revision, message)
    join etcd_wal w on w.id = l.id and w.status = 'pending'
  ), tx as (
    select * from lost where nth = 1
  ), headers as (
    delete from etcd_wal_tx t using tx where t.txid = tx.txid and t.ts = tx.ts
  ), rows as (
    update etcd_wal w set status = _status, batch_id = _batch, settled_at = clock_timestamp(),
      result_revision = coalesce(lost.revision, tx.revision),
      error_message = coalesce(lost.message, format('Row %s of its transaction: %s', tx.id, tx.message))
    from tx join etcd_wal r on r.txid = tx.txid and r.ts = tx.ts and r.status = 'pending'
    left join lost on lost.id = r.id
    where w.id = r.id
    returning w.txid, w.ts
  ), counted as (
    select txid, ts, count(*) as rows from rows group by txid, ts
  )
  insert into etcd_sync_event (kind, key, timeline, revision, detail)
  select _status, tx.key, tx.timeline, tx.revision,
    jsonb_build_object('wal_id', tx.id, 'txid', tx.txid::text, 'message', tx.message, 'rows', counted.rows)
  from tx join counted using (txid, ts)
$$;

-- Of the oldest transactions those of one write each, up to the first that has more writes, repeats a key or does not
-- fit: in one statement, since mostly there are no others. A header that was never moved is of one write, and has its
-- number: a second write moves it. So the number is also its row's id, by which those that are claimed are left out.
create function etcd_drain_claim_singles(_max_rows integer, _max_bytes bigint, _max_transactions integer, _behind bigint[] default '{}')
returns table (ids bigint[], keys text[], bytes bigint)
language plpgsql stable set search_path from current
set enable_sort = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  return query
  with oldest as (
    select t.seq, w.id, w.key, 3 * octet_length(w.key) + coalesce(octet_length(w.value), octet_length(w.value_bytes), 0) + 64 as size
    from (select * from etcd_wal_tx t where t.seq not in (select unnest(_behind)) order by t.seq limit least(_max_transactions, _max_rows)) t
    left join etcd_wal w on w.id = t.seq and t.first_id = t.seq and t.split_id is null and w.status = 'pending'
  ), running as (
    select o.*, sum(o.size) over (order by o.seq) as bytes, row_number() over (partition by o.key order by o.seq) as nth
    from oldest o
  ), judged as (
    select r.*, bool_and(r.id is not null and r.nth = 1 and r.bytes <= _max_bytes) over (order by r.seq) as fits from running r
  )
  select coalesce(array_agg(j.id order by j.seq), '{}'), coalesce(array_agg(j.key order by j.seq), '{}'), coalesce(max(j.bytes), 0)::bigint
  from judged j where j.fits;
end $$;

-- The oldest whole transactions that fit into one etcd transaction: at most _max_rows rows and _max_bytes bytes; it
-- ends before one that repeats a key, since etcd refuses a key twice and both writes belong to the history. One that
-- does not fit into a batch of its own goes in parts, in order.
--
-- Without sorts the parts of a large transaction come by the primary key, from where the last one ended; with one, each
-- part would read all that is left.
--
-- _behind: rows that are claimed and not settled yet. What is claimed goes behind them, so it may repeat their keys.
create function etcd_drain_claim(_max_rows integer, _max_bytes bigint, _max_transactions integer, _behind bigint[] default '{}')
returns setof etcd_wal
language plpgsql set search_path from current
set enable_sort = off set enable_bitmapscan = off set enable_seqscan = off as $$
declare
  tx etcd_wal_tx;
  ids bigint[];
  keys text[];
  sizes bigint[];
  fits integer;
  taken bigint[];
  taken_keys text[];
  room bigint;
begin
  select s.ids, s.keys, _max_bytes - s.bytes into taken, taken_keys, room
  from etcd_drain_claim_singles(_max_rows, _max_bytes, _max_transactions, _behind) s;
  <<headers>>
  for tx in
    select * from etcd_wal_tx t where t.seq not in (select unnest(taken || _behind))
    order by t.seq
    limit case when cardinality(taken) < least(_max_transactions, _max_rows)
      then least(_max_transactions, _max_rows) - cardinality(taken) + cardinality(_behind) else 0 end
  loop
    -- This is another snapshot. A transaction that committed between the two can come before one that is taken; to take
    -- one behind it would send a later write of a key first.
    exit headers when tx.seq < taken[cardinality(taken)];
    if tx.split_id is null then
      select array_agg(r.id order by r.id), array_agg(r.key order by r.id), array_agg(r.size order by r.id) into ids, keys, sizes
      from (
        select w.id, w.key, 3 * octet_length(w.key) + coalesce(octet_length(w.value), octet_length(w.value_bytes), 0) + 64 as size
        from etcd_wal w where w.txid = tx.txid and w.ts = tx.ts and w.status = 'pending' and w.id <> all (_behind) limit _max_rows + 1
      ) r;
      if cardinality(ids) > 1 and (cardinality(ids) > _max_rows or (select sum(s) from unnest(sizes) s) > _max_bytes) then
        exit headers when taken <> '{}'; -- it begins a batch of its own
        tx.split_id := tx.first_id;
        update etcd_wal_tx t set split_id = tx.first_id where t.seq = tx.seq;
        insert into etcd_sync_event (kind, timeline, detail)
        select 'split', g.timeline, jsonb_build_object('txid', tx.txid::text, 'first_wal_id', tx.first_id,
          'max_rows', _max_rows, 'max_bytes', _max_bytes)
        from etcd_sync_gate g;
      end if;
    end if;
    if tx.split_id is not null then
      select array_agg(r.id), array_agg(r.key), array_agg(r.size) into ids, keys, sizes
      from (
        select w.id, w.key, 3 * octet_length(w.key) + coalesce(octet_length(w.value), octet_length(w.value_bytes), 0) + 64 as size
        from etcd_wal w
        where w.id between tx.split_id and tx.seq and w.txid = tx.txid and w.ts = tx.ts and w.status = 'pending' and w.id <> all (_behind)
        order by w.id limit _max_rows + 1
      ) r;
    end if;
    if ids is null then -- all its parts are settled, or claimed
      delete from etcd_wal_tx t where t.seq = tx.seq
        and not exists (select from etcd_wal w where w.id = any (_behind) and w.txid = tx.txid and w.ts = tx.ts);
      continue headers;
    end if;
    exit headers when keys && taken_keys;

    fits := 0;
    while fits < cardinality(ids) and cardinality(taken) + fits < _max_rows
        and (sizes[fits + 1] <= room or (fits = 0 and taken = '{}')) loop
      fits := fits + 1;
      room := room - sizes[fits];
    end loop;
    exit headers when fits < cardinality(ids) and tx.split_id is null;
    taken := taken || ids[:fits];
    taken_keys := taken_keys || keys[:fits];
    exit headers when fits < cardinality(ids) or cardinality(taken) >= _max_rows;
  end loop;
  return query select w.* from unnest(taken) with ordinality as t(id, n) join etcd_wal w using (id) order by t.n;
end $$;

-- One turn of the drain, one round trip: settle the batch in flight, claim what comes next, park or wake.
--
-- _ahead: the batch in flight is applied, and the one that was claimed ahead is on its way to etcd: now it is the batch in
-- flight. Else it was never sent, and what was claimed ahead is free again; its number is not: a number never names two
-- batches of a holder.
-- _batches: how many may be claimed then, those on their way among them. _busy and _idle: the machine's states after
-- `wal-waiting` and after `wal-empty`.
create function etcd_drain_turn(
  _epoch bigint, _holder uuid, _batch bigint, _ahead boolean,
  _applied_at bigint, _ids bigint[], _expected bigint[],
  _lost_status text, _lost bigint[], _lost_revisions bigint[], _lost_messages text[],
  _max_rows integer, _max_bytes bigint, _max_transactions integer, _batches integer, _busy text, _idle text
) returns table (
  batch bigint, id bigint, txid text, ts text, key text, value text, value_bytes bytea, tombstone boolean, keep_lease boolean,
  timeline bigint, revision bigint, seen_revision bigint, "strict" boolean
)
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  state etcd_sync_state := etcd_drain_fence(_epoch, _holder, _batch, _alone => false);
  newest bigint := greatest(state.batch_id, state.ahead_id);
  flying bigint[] := case when _ahead then state.ahead_rows else '{}' end;
  first etcd_wal[] := '{}';
  second etcd_wal[] := '{}';
  kept boolean := true;
begin
  if state.state not in (_busy, _idle) or _ahead and state.ahead_id is null then
    raise exception using errcode = 'ZE100', message = format('Fenced: the stream is in state %s', state.state);
  end if;
  if cardinality(_ids) > 0 then
    perform etcd_drain_applied(_batch, _applied_at, _ids, _expected);
  end if;
  if cardinality(_lost) > 0 then
    perform etcd_drain_lost(_lost_status, _batch, _lost, _lost_revisions, _lost_messages);
  end if;
  if not _ahead and _batches > 0 then
    first := array(select c from etcd_drain_claim(_max_rows, _max_bytes, _max_transactions) c);
    flying := array(select c.id from unnest(first) c);
  end if;
  if flying <> '{}' and _batches > 1 and exists (select from etcd_wal_tx t where t.seq not in (select unnest(flying))) then
    second := array(select c from etcd_drain_claim(_max_rows, _max_bytes, _max_transactions, flying) c);
  end if;
  if flying <> '{}' then
    newest := newest + cardinality(first[:1]) + cardinality(second[:1]);
    update etcd_sync_state s set state = _busy, batch_id = newest - cardinality(second[:1]), batch_holder = _holder, batch_rows = flying,
      ahead_id = case when second <> '{}' then newest end, ahead_rows = array(select c.id from unnest(second) c),
      marker_revision = greatest(s.marker_revision, coalesce(_applied_at, 0)), updated_at = clock_timestamp()
    where s.epoch = _epoch and s.holder = _holder and s.batch_id = _batch and s.state = state.state;
    kept := found;
    update etcd_sync_gate set parked = false where parked;
  elsif state.state <> _idle or state.batch_rows <> '{}' or cardinality(_lost) > 0 or not (select g.parked from etcd_sync_gate g) then
    update etcd_sync_state s set state = _idle, batch_id = newest, batch_rows = '{}', ahead_id = null, ahead_rows = '{}',
      marker_revision = greatest(s.marker_revision, coalesce(_applied_at, 0)), updated_at = clock_timestamp()
    where s.epoch = _epoch and s.holder = _holder and s.batch_id = _batch and s.state = state.state
    returning s.* into state;
    kept := found;
    -- every tombstone that is there has come with a checkpoint, at the latest with the one that was read under the lock of this update
    update etcd_sync_gate g set parked = true, seen_revision = greatest(g.seen_revision, state.revision), deleted = false;
  end if;
  if not kept then -- the fence lets the next leader raise the epoch, too
    raise exception using errcode = 'ZE100', message = format('Fenced: epoch %s is no longer the writer of batch %s', _epoch, _batch);
  end if;
  return query
  select newest - case when c.ordinality <= cardinality(first) then cardinality(second[:1]) else 0 end,
    c.id, c.txid::text, c.ts::text, c.key, c.value, c.value_bytes, c.tombstone, c.keep_lease,
    c.timeline, c.revision, c.seen_revision, c."strict" from unnest(first || second) with ordinality c;
end $$;

-- Rights: nobody but the owner, until they are granted (docs/rights).
do $$
declare
  f regprocedure;
begin
  for f in select p.oid from pg_proc p where p.pronamespace = (select oid from pg_namespace where nspname = current_schema()) and p.proname like 'etcd\_%' loop
    execute format('revoke execute on function %s from public', f);
  end loop;
end $$;
