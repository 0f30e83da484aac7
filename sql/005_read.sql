-- Reading: now, by prefix, and at a past revision.

create function etcd_get(key text) returns setof etcd
language sql stable security definer set search_path from current as $$
  select * from etcd e where e.key = $1
$$;
comment on function etcd_get(text) is 'The row of one key now; no row where etcd has no such key';

-- The upper bound: no key is longer than 2,500 bytes, and U+10FFFF sorts last. LIKE with a parameter could not use the index.
create function etcd_list(prefix text) returns setof etcd
language sql stable security definer set search_path from current as $$
  select * from etcd e
  where e.key >= $1 and e.key <= $1 || repeat(chr(1114111), 625) and starts_with(e.key, $1)
  order by e.key
$$;
comment on function etcd_list(text) is 'The rows of all keys that begin with the prefix, in order';

-- Raises unless the mirror knows all of (timeline, revision). A gap is the span of a scan: open at both ends, since
-- the mirror was whole at the checkpoint where it began and is whole at the one where it caught up.
create function etcd_known_revision(_revision bigint, _timeline bigint) returns bigint
language plpgsql stable security definer set search_path from current as $$
declare
  state etcd_sync_state;
  wanted bigint;
  last_known bigint;
  first_known bigint;
  gap record;
begin
  select * into state from etcd_sync_state;
  wanted := coalesce(_timeline, state.timeline);
  first_known := (select min(e.revision) from etcd_sync_event e where e.kind = 'caught-up' and e.timeline = wanted);
  if wanted = state.timeline then
    first_known := greatest(first_known, state.history_from);
  end if;
  if wanted = state.retained_timeline and state.retained_revision > 0 then
    first_known := state.retained_revision; -- the mirror was whole there; events before it may be gone
  elsif wanted < state.retained_timeline then
    first_known := null;
  end if;
  if wanted = state.timeline and state.state in ('streaming', 'draining') then
    last_known := state.revision;
  else
    last_known := (select max(e.revision) from etcd_sync_event e where e.kind = 'scan-started' and e.timeline = wanted);
  end if;
  if first_known is null or last_known is null or _revision not between first_known and last_known then
    raise exception using errcode = 'ZE011', message = format('Cannot read revision %s of timeline %s: known are %s to %s',
      _revision, wanted, coalesce(first_known::text, 'none'), coalesce(last_known::text, 'none'));
  end if;
  select started.revision as lower, min(ended.revision) as upper into gap
  from etcd_sync_event started
  left join etcd_sync_event ended on ended.kind = 'caught-up' and ended.timeline = started.timeline and ended.id > started.id
  where started.kind = 'scan-started' and started.timeline = wanted and started.revision < _revision
  group by started.id, started.revision having min(ended.revision) > _revision
  limit 1;
  if found then
    raise exception using errcode = 'ZE011', message = format('Cannot read revision %s of timeline %s: what happened between %s and %s was not seen',
      _revision, wanted, gap.lower, gap.upper);
  end if;
  return wanted;
end $$;

create function etcd_at(revision bigint, timeline bigint default null) returns setof etcd
language plpgsql stable security definer set search_path from current as $$
declare
  _timeline bigint := etcd_known_revision($1, $2);
begin
  return query
  select h.key, h.value, h.value_bytes, h.revision, h.create_revision, h.version, h.lease, h.ts
  from etcd_history h
  where h.timeline = _timeline and h.revision <= $1 and not h.tombstone
    and (h.until_revision is null or h.until_revision > $1);
end $$;
comment on function etcd_at(bigint, bigint) is 'The whole mirror at a past revision; raises ZE011 where that is not known';

create function etcd_get(key text, at_revision bigint) returns setof etcd
language plpgsql stable security definer set search_path from current as $$
declare
  _timeline bigint := etcd_known_revision($2, null);
begin
  return query
  select h.key, h.value, h.value_bytes, h.revision, h.create_revision, h.version, h.lease, h.ts
  from etcd_history h
  where h.timeline = _timeline and h.key = $1 and h.revision <= $2 and not h.tombstone
    and (h.until_revision is null or h.until_revision > $2);
end $$;
comment on function etcd_get(text, bigint) is 'The row of one key at a past revision; raises ZE011 where that is not known';

create function etcd_get_all(key text, min_revision bigint default 0) returns setof etcd_history
language sql stable security definer set search_path from current as $$
  select * from etcd_history h where h.key = $1 and h.revision >= $2
    and h.timeline = any (array(select generate_series(1, g.timeline) from etcd_sync_gate g))
  order by h.timeline, h.revision
$$;
comment on function etcd_get_all(text, bigint) is 'The revisions of one key that were seen, oldest first';

-- Right also where the program is down: only the clock moves on then.
create function etcd_freshness()
returns table (state text, revision bigint, fresh_at timestamptz, fresh_age interval, oldest_write_age interval)
language sql security definer set search_path from current as $$
  select s.state, s.revision, s.fresh_at, clock_timestamp() - s.fresh_at,
    (select clock_timestamp() - t.ts from etcd_wal_tx t order by t.seq limit 1)
  from etcd_sync_state s
$$;
comment on function etcd_freshness() is 'How fresh the mirror is: all that etcd acknowledged before fresh_at is in it; and for how long the oldest write waits';
