-- The user of the watcher, of check and of serve. To log in is all that it needs.
CREATE USER watcher@'10.0.0.%' IDENTIFIED BY 'secret';

-- For several watchers that agree on the writer (--agree=gpen): the schema, and the table in it.
CREATE DATABASE gpen;
GRANT SELECT, INSERT, UPDATE, CREATE ON gpen.* TO watcher@'10.0.0.%';
