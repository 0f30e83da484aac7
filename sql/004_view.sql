-- The view that people use. Writes through it queue in the WAL; the view shows what etcd has confirmed.

create view etcd as
select key, value, value_bytes, revision, create_revision, version, lease, ts from etcd_kv;
comment on view etcd is 'What etcd has now. INSERT, UPDATE and DELETE queue writes; they show once etcd has confirmed them.';

create function etcd_view_write() returns trigger
language plpgsql security definer set search_path from current as $$
declare
  _value text;
  _bytes bytea;
begin
  if tg_op = 'DELETE' then
    perform etcd_wal_write(old.key, null, null, true, old.revision, false, false, false);
    return old;
  end if;

  if tg_op = 'INSERT' then
    if (new.revision, new.create_revision, new.version, new.lease, new.ts) is distinct from (null, null, null, null, null) then
      raise exception using errcode = 'ZE008',
        message = format('Cannot insert key %L: only key, value and value_bytes can be given, etcd sets the rest', new.key);
    end if;
    perform etcd_wal_write(new.key, new.value, new.value_bytes, false, 0, true, false, true);
    return new;
  end if;

  if (new.revision, new.create_revision, new.version, new.lease, new.ts)
      is distinct from (old.revision, old.create_revision, old.version, old.lease, old.ts) then
    raise exception using errcode = 'ZE008',
      message = format('Cannot update key %L: only key, value and value_bytes can be set, etcd sets the rest', old.key);
  end if;
  -- of value and value_bytes the changed one counts
  _value := new.value;
  _bytes := new.value_bytes;
  if new.value is not null and new.value is distinct from old.value and new.value_bytes is not distinct from old.value_bytes then
    _bytes := null;
  elsif new.value_bytes is not null and new.value_bytes is distinct from old.value_bytes and new.value is not distinct from old.value then
    _value := null;
  end if;
  if new.key is distinct from old.key then
    perform etcd_wal_write(old.key, null, null, true, old.revision, false, false, false);
    perform etcd_wal_write(new.key, _value, _bytes, false, 0, true, false, true);
  else
    perform etcd_wal_write(old.key, _value, _bytes, false, old.revision, false, true, false);
  end if;
  return new;
end $$;

create trigger etcd_view_write instead of insert or update or delete on etcd
for each row execute function etcd_view_write();
