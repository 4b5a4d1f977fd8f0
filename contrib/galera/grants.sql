-- The user of the watcher, of check and of serve. To log in is all that it needs. What is there already stays as it
-- is, its password too (ALTER USER changes that): this runs as often as you like.
CREATE USER IF NOT EXISTS watcher@'10.0.0.%' IDENTIFIED BY 'secret';

-- For several watchers that agree on the writer (--agree=gpen): the schema, and the table in it.
CREATE DATABASE IF NOT EXISTS gpen;
GRANT SELECT, INSERT, UPDATE, CREATE ON gpen.* TO watcher@'10.0.0.%';
