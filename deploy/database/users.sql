CREATE DATABASE IF NOT EXISTS `${database}` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
CREATE USER IF NOT EXISTS '${service_username}'@'%' IDENTIFIED BY '${service_password}';
ALTER USER '${service_username}'@'%' IDENTIFIED BY '${service_password}';
GRANT SELECT, INSERT, UPDATE, DELETE ON `${database_pattern}`.* TO '${service_username}'@'%';
CREATE USER IF NOT EXISTS '${migration_username}'@'%' IDENTIFIED BY '${migration_password}';
ALTER USER '${migration_username}'@'%' IDENTIFIED BY '${migration_password}';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES ON `${database_pattern}`.* TO '${migration_username}'@'%';
GRANT PROCESS ON *.* TO '${migration_username}'@'%';
