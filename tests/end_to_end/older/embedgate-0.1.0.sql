BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE audit (
	seq INTEGER NOT NULL, 
	at_ms BIGINT NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	actor VARCHAR(64) NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	target TEXT NOT NULL, 
	outcome VARCHAR(64) NOT NULL, 
	request_id VARCHAR(64) NOT NULL, 
	policies TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	previous BLOB NOT NULL, 
	digest BLOB NOT NULL, 
	CONSTRAINT pk_audit PRIMARY KEY (seq)
);
INSERT INTO "audit" VALUES(1,1795859330847,'change','command line','roles.create','analyst','ok','','[]','{}',X'0000000000000000000000000000000000000000000000000000000000000000',X'1150576477F8335C2A6BF9DCB199595C19FA28480BDB446B2A908DA1D8F743D7');
INSERT INTO "audit" VALUES(2,1795859333808,'change','command line','users.create','user_5bb537067faf7a52','ok','','[]','{"is_admin":false,"name":"alice","roles":"analyst"}',X'1150576477F8335C2A6BF9DCB199595C19FA28480BDB446B2A908DA1D8F743D7',X'53618965DF97BB0B9E597C0C57DF9A305F106C5C9152273EC1258E039CFD426E');
INSERT INTO "audit" VALUES(3,1795859337299,'change','command line','projects.create','project_5729de55032fbe52','ok','','[]','{"name":"search"}',X'53618965DF97BB0B9E597C0C57DF9A305F106C5C9152273EC1258E039CFD426E',X'D7230F7B0956FF8C24F4AC8F118D1C1A11C4BABE341E01192782A360B9AD1812');
INSERT INTO "audit" VALUES(4,1795859340828,'change','command line','keys.create','key_ed5432390b735dd0','ok','','[]','{"expires_at_ms":null,"name":"laptop","project":"project_5729de55032fbe52","user":"user_5bb537067faf7a52"}',X'D7230F7B0956FF8C24F4AC8F118D1C1A11C4BABE341E01192782A360B9AD1812',X'506DCB1D5656F8EA3F6D257142BFF68EB91F252929AF510CB22529099118DB61');
INSERT INTO "audit" VALUES(5,1795859345133,'change','command line','users.set_password','user_5bb537067faf7a52','ok','','[]','{}',X'506DCB1D5656F8EA3F6D257142BFF68EB91F252929AF510CB22529099118DB61',X'E41F97FE5DCF4E2A4F5E9F4EEC4CF76FE18D214C52B67045C3F200343D34CEDB');
INSERT INTO "audit" VALUES(6,1795859349057,'change','command line','limits.set','user_5bb537067faf7a52','ok','','[]','{"is_new":true,"max_parallel":null,"max_waiting":0,"requests_per_minute":600,"subject_kind":"user","tokens_per_minute":null}',X'E41F97FE5DCF4E2A4F5E9F4EEC4CF76FE18D214C52B67045C3F200343D34CEDB',X'08CF6E5625562BEC20F73F566D30D1827A171D8E3A09AFE66FF5FE97B60EFC15');
INSERT INTO "audit" VALUES(7,1795859356669,'change','command line','policies.create','no-large','ok','','[]','{"is_enabled":true,"text_sha256":"b922ffc779b38ad278edafabb418d0b6388de777d0253aecf304c46266171776"}',X'08CF6E5625562BEC20F73F566D30D1827A171D8E3A09AFE66FF5FE97B60EFC15',X'B0251FE8016F46750C9B9AC87FB294A428DB080247C8C3820391A6BCB7449857');
INSERT INTO "audit" VALUES(8,1795859358908,'decision','key_ed5432390b735dd0','embedding','fake/deterministic','permit','req_881f1444b78e08c204ba80aa88ec51af','["permit-everything"]','{}',X'B0251FE8016F46750C9B9AC87FB294A428DB080247C8C3820391A6BCB7449857',X'7DC184DD8DA1D4FE02AFE5BFC7A723DD29FB24813EF372BE240C436BB14B1CE7');
INSERT INTO "audit" VALUES(9,1795859358935,'decision','key_ed5432390b735dd0','embedding','fake/deterministic','permit','req_33b3102ca79918ade3f76441bbde494b','["permit-everything"]','{}',X'7DC184DD8DA1D4FE02AFE5BFC7A723DD29FB24813EF372BE240C436BB14B1CE7',X'2B855DDE11311E4EE528F53342FB3631862FC503AF027418C182E3DDCE23795A');
INSERT INTO "audit" VALUES(10,1795859359035,'decision','key_ed5432390b735dd0','embedding','fake/deterministic','permit','req_6dbbd219b6ed68ca52e0ace782d1e4a1','["permit-everything"]','{}',X'2B855DDE11311E4EE528F53342FB3631862FC503AF027418C182E3DDCE23795A',X'B261F10E5716778D4BC44EE51F785FF6928FB7401F89680E848A89C0EF836641');
INSERT INTO "audit" VALUES(11,1795859371497,'change','command line','budgets.set','project_5729de55032fbe52','ok','','[]','{"cap_usd":"5.0","period":"month","replaced_cap_usd":null,"subject_kind":"project"}',X'B261F10E5716778D4BC44EE51F785FF6928FB7401F89680E848A89C0EF836641',X'D3BC8ABB86BFA9F6F0F1B1C08AE8745717453637C5488B24E1BD1A618D031727');
INSERT INTO "audit" VALUES(12,1795859376269,'change','command line','prices.add','openai/text-embedding-3-small','ok','','[]','{"from_ms":1795859376266,"provider":"openai","usd_per_million_tokens":"0.018"}',X'D3BC8ABB86BFA9F6F0F1B1C08AE8745717453637C5488B24E1BD1A618D031727',X'7E03963E8AB0A48FF958500CDD25845ECDC31B9BF9FC8960746978CB14A3A913');
INSERT INTO "audit" VALUES(13,1795859381343,'change','command line','providers.put','openai','ok','','[]','{"allow_private":false,"base_url":null,"batching":null,"has_new_key":true,"host":null,"is_enabled":null,"max_parallel":null}',X'7E03963E8AB0A48FF958500CDD25845ECDC31B9BF9FC8960746978CB14A3A913',X'25E40728BC344357DE8BBE990D80D5A35408ECFF7CB2C4F8D3D4B71FCD4D1BA5');
INSERT INTO "audit" VALUES(14,1795859391493,'change','command line','keys.rotate','key_ed5432390b735dd0','ok','','[]','{"overlap_s":86400}',X'25E40728BC344357DE8BBE990D80D5A35408ECFF7CB2C4F8D3D4B71FCD4D1BA5',X'B12AECAAA7AC99EF80FA2C9788FB9689696FB81AC8F7907AEBC157A1610BA88B');
INSERT INTO "audit" VALUES(15,1795859392266,'decision','key_ed5432390b735dd0','embedding','fake/deterministic','permit','req_7d0af88fb6562cf965d66c19064ce92a','["permit-everything"]','{}',X'B12AECAAA7AC99EF80FA2C9788FB9689696FB81AC8F7907AEBC157A1610BA88B',X'0204AB1F8B78262A5002A57B22686C5BBB5E86D6EB85069DEB5513BC3FDD4522');
INSERT INTO "audit" VALUES(16,1795859392960,'login','user_5bb537067faf7a52','login','user_5bb537067faf7a52','ok','req_ad013e174db35f5b329cbcf85303a20f','[]','{"ip_address":"127.0.0.1","session":"session_88b179c1698ac5210fe217a2dcda02ef"}',X'0204AB1F8B78262A5002A57B22686C5BBB5E86D6EB85069DEB5513BC3FDD4522',X'1C553842897B8C1DFA49C74467B1191EEAE4D0B10351011AC4E47A106169D74A');
CREATE TABLE budgets (
	subject_kind VARCHAR(16) NOT NULL, 
	subject_id VARCHAR(64) NOT NULL, 
	period VARCHAR(8) NOT NULL, 
	cap_picodollars BIGINT NOT NULL, 
	CONSTRAINT pk_budgets PRIMARY KEY (subject_kind, subject_id, period)
);
INSERT INTO "budgets" VALUES('project','project_5729de55032fbe52','month',5000000000000);
CREATE TABLE keys (
	id VARCHAR(64) NOT NULL, 
	user_id VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	digest BLOB NOT NULL, 
	hint VARCHAR(4) NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	revoked_at_ms BIGINT, project_id VARCHAR(64), is_disabled BOOLEAN DEFAULT 0 NOT NULL, expires_at_ms BIGINT, replaced_by VARCHAR(64), 
	CONSTRAINT pk_keys PRIMARY KEY (id), 
	CONSTRAINT fk_keys_user_id_users FOREIGN KEY(user_id) REFERENCES users (id), 
	CONSTRAINT uq_keys_digest UNIQUE (digest)
);
INSERT INTO "keys" VALUES('key_1d6c59e91d08ba4b','user_87a7dfb4c1b21b87','first start',X'42A1B60AFCA953D97833921696F7F6DF70445BE1C0DAAE8E67C540AD58D6B4E1','457f',1795859323689,NULL,NULL,0,NULL,NULL);
INSERT INTO "keys" VALUES('key_6eabb435c0b7ea29','user_cbf40426171a5f44','first start',X'E33F2AF0EE5B5925ED8983F5A90D24CBF9FBD660B93702289D8AD085168A4C41','2ff8',1795859323727,NULL,NULL,0,NULL,NULL);
INSERT INTO "keys" VALUES('key_ed5432390b735dd0','user_5bb537067faf7a52','laptop',X'CD7B21B2CA5B10B9B9699A17D1BDFBAFC3BD15B9CA59C9370FB2078B7EE8F9DE','12af',1795859391436,NULL,'project_5729de55032fbe52',0,NULL,NULL);
INSERT INTO "keys" VALUES('key_8b090beb01ed5f64','user_5bb537067faf7a52','laptop',X'1831F505E5518F18796207903CC53DF43C7C72EFFC3BF51F3241B06730D20958','637f',1795859340791,NULL,NULL,0,1795945791436,'key_ed5432390b735dd0');
CREATE TABLE ledger (
	id INTEGER NOT NULL, 
	request_id VARCHAR(64) NOT NULL, 
	at_ms BIGINT NOT NULL, 
	dialect VARCHAR(16) NOT NULL, 
	user_id VARCHAR(64) NOT NULL, 
	key_id VARCHAR(64) NOT NULL, 
	end_user TEXT, 
	model TEXT NOT NULL, 
	space TEXT NOT NULL, 
	provider TEXT NOT NULL, 
	upstream_model TEXT NOT NULL, 
	items BIGINT NOT NULL, 
	tokens BIGINT NOT NULL, 
	tokens_estimated BOOLEAN NOT NULL, 
	price_picodollars BIGINT NOT NULL, 
	price_as_of VARCHAR(32), 
	cost_picodollars BIGINT NOT NULL, 
	outcome VARCHAR(64) NOT NULL, 
	total_ms DOUBLE NOT NULL, 
	upstream_ms DOUBLE NOT NULL, reused_tokens BIGINT DEFAULT '0' NOT NULL, project_id VARCHAR(64), authenticate_ms DOUBLE DEFAULT '0' NOT NULL, admit_ms DOUBLE DEFAULT '0' NOT NULL, action VARCHAR(16) DEFAULT 'embedding' NOT NULL, output_tokens BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_ledger PRIMARY KEY (id), 
	CONSTRAINT uq_ledger_request_id UNIQUE (request_id)
);
INSERT INTO "ledger" VALUES(1,'req_881f1444b78e08c204ba80aa88ec51af',1795859358909,'openai','user_5bb537067faf7a52','key_ed5432390b735dd0',NULL,'fake/deterministic','fake/deterministic','fake','deterministic',1,2,0,0,NULL,0,'ok',8.68248900042090099304e+00,2.18807999772252514958e-01,0,'project_5729de55032fbe52',4.09467900044546695426e+00,3.51140099974145414307e+00,'embedding',0);
INSERT INTO "ledger" VALUES(2,'req_33b3102ca79918ade3f76441bbde494b',1795859358936,'openai','user_5bb537067faf7a52','key_ed5432390b735dd0',NULL,'fake/deterministic','fake/deterministic','fake','deterministic',1,2,0,0,NULL,0,'ok',0.935736000428733,1.11528000161342788487e-01,0,'project_5729de55032fbe52',5.12249998791958205401e-02,2.38385000557173043489e-01,'embedding',0);
INSERT INTO "ledger" VALUES(3,'req_6dbbd219b6ed68ca52e0ace782d1e4a1',1795859359036,'openai','user_5bb537067faf7a52','key_ed5432390b735dd0',NULL,'fake/deterministic','fake/deterministic','fake','deterministic',1,2,0,0,NULL,0,'ok',1.77495200023258803412e+00,1.91416999768989626318e-01,0,'project_5729de55032fbe52',7.63130001359968446195e-02,4.27007000325829721987e-01,'embedding',0);
INSERT INTO "ledger" VALUES(4,'req_7d0af88fb6562cf965d66c19064ce92a',1795859392266,'openai','user_5bb537067faf7a52','key_ed5432390b735dd0',NULL,'fake/deterministic','fake/deterministic','fake','deterministic',1,0,0,0,NULL,0,'ok',1.17314680001072701998e+01,0.0,2,'project_5729de55032fbe52',6.76148500042472733184e+00,4.45128499995917081832e+00,'embedding',0);
CREATE TABLE limits (
	subject_kind VARCHAR(16) NOT NULL, 
	subject_id VARCHAR(64) NOT NULL, 
	requests_per_minute BIGINT, 
	tokens_per_minute BIGINT, 
	max_parallel BIGINT, 
	max_waiting BIGINT NOT NULL, 
	CONSTRAINT pk_limits PRIMARY KEY (subject_kind, subject_id)
);
INSERT INTO "limits" VALUES('user','user_5bb537067faf7a52',600,NULL,NULL,0);
CREATE TABLE policies (
	id VARCHAR(128) NOT NULL, 
	text TEXT NOT NULL, 
	description TEXT NOT NULL, 
	is_enabled BOOLEAN NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_policies PRIMARY KEY (id)
);
INSERT INTO "policies" VALUES('permit-everything','@id("permit-everything")
permit (principal, action, resource);
','Everybody may do everything. Disable it once you have policies of your own.',1,0);
INSERT INTO "policies" VALUES('no-large','@id("no-large")
forbid (principal, action, resource) when { context.input_tokens > 100000 };
','No large ones',1,1795859356658);
CREATE TABLE prices (
	model VARCHAR(255) NOT NULL, 
	provider VARCHAR(64) NOT NULL, 
	from_ms BIGINT NOT NULL, 
	picodollars_per_token BIGINT NOT NULL, 
	CONSTRAINT pk_prices PRIMARY KEY (model, provider, from_ms)
);
INSERT INTO "prices" VALUES('openai/text-embedding-3-small','openai',1795859376266,18000);
CREATE TABLE projects (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	is_disabled BOOLEAN NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_projects PRIMARY KEY (id), 
	CONSTRAINT uq_projects_name UNIQUE (name)
);
INSERT INTO "projects" VALUES('project_5729de55032fbe52','search',0,1795859337293);
CREATE TABLE providers (
	name VARCHAR(64) NOT NULL, 
	is_enabled BOOLEAN, 
	host VARCHAR(64), 
	base_url TEXT, 
	max_parallel BIGINT, 
	batching BOOLEAN, 
	sealed_key BLOB, 
	key_hint VARCHAR(4) NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_providers PRIMARY KEY (name)
);
INSERT INTO "providers" VALUES('openai',NULL,NULL,NULL,NULL,NULL,X'01C6CE9C6B4B4310CC753C0B457E382F23672C6F3047607D7FD42DE1723D176AC72087EB8EDEC79E8733757E2D530F477E676852336E6F8FC9','wXyZ',1795859381308);
CREATE TABLE roles (
	name VARCHAR(64) NOT NULL, 
	description TEXT NOT NULL, 
	CONSTRAINT pk_roles PRIMARY KEY (name)
);
INSERT INTO "roles" VALUES('analyst','Reads reports');
CREATE TABLE rules_revision (
	id INTEGER NOT NULL, 
	revision BIGINT NOT NULL, 
	CONSTRAINT pk_rules_revision PRIMARY KEY (id)
);
INSERT INTO "rules_revision" VALUES(1,6);
CREATE TABLE sessions (
	id VARCHAR(64) NOT NULL, 
	user_id VARCHAR(64) NOT NULL, 
	access_digest BLOB NOT NULL, 
	access_expires_at_ms BIGINT NOT NULL, 
	refresh_digest BLOB NOT NULL, 
	refresh_expires_at_ms BIGINT NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_sessions PRIMARY KEY (id), 
	CONSTRAINT fk_sessions_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE, 
	CONSTRAINT uq_sessions_access_digest UNIQUE (access_digest), 
	CONSTRAINT uq_sessions_refresh_digest UNIQUE (refresh_digest)
);
INSERT INTO "sessions" VALUES('session_88b179c1698ac5210fe217a2dcda02ef','user_5bb537067faf7a52',X'EEED63180B89CCC9AFFFDF8EAB530FC398C6E7B61E0387DCEC15B27CF7977731',1795860292949,X'C71FFFBB972054739A6FECD10324DE30B6025884BADE1C9D31593DBEF0065442',1796464192949,1795859392949);
CREATE TABLE user_roles (
	user_id VARCHAR(64) NOT NULL, 
	role VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_user_roles PRIMARY KEY (user_id, role), 
	CONSTRAINT fk_user_roles_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE, 
	CONSTRAINT fk_user_roles_role_roles FOREIGN KEY(role) REFERENCES roles (name) ON DELETE CASCADE
);
INSERT INTO "user_roles" VALUES('user_5bb537067faf7a52','analyst');
CREATE TABLE users (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	is_admin BOOLEAN NOT NULL, 
	is_disabled BOOLEAN NOT NULL, 
	created_at_ms BIGINT NOT NULL, email VARCHAR(254) DEFAULT '' NOT NULL, tenant VARCHAR(64), is_agent BOOLEAN DEFAULT 0 NOT NULL, password_hash TEXT, 
	CONSTRAINT pk_users PRIMARY KEY (id), 
	CONSTRAINT uq_users_name UNIQUE (name)
);
INSERT INTO "users" VALUES('user_87a7dfb4c1b21b87','admin',1,0,1795859323654,'',NULL,0,NULL);
INSERT INTO "users" VALUES('user_cbf40426171a5f44','user',0,0,1795859323718,'',NULL,0,NULL);
INSERT INTO "users" VALUES('user_5bb537067faf7a52','alice',0,0,1795859333799,'alice@example.com','research',0,'$argon2id$v=19$m=65536,t=3,p=4$uAr9Gffe7uNeklclSUrgOQ$D7gvjFlsr+YdplYQyPWbZtFFIfI0NEFX4JaTNIlOw7o');
CREATE INDEX ix_keys_user_id ON keys (user_id);
CREATE INDEX ix_ledger_at_ms ON ledger (at_ms);
CREATE INDEX ix_ledger_user_id_at_ms ON ledger (user_id, at_ms);
CREATE INDEX ix_ledger_key_id_at_ms ON ledger (key_id, at_ms);
CREATE INDEX ix_keys_project_id ON keys (project_id);
CREATE INDEX ix_sessions_user_id ON sessions (user_id);
CREATE INDEX ix_audit_at_ms ON audit (at_ms);
CREATE INDEX ix_ledger_project_id_at_ms ON ledger (project_id, at_ms) WHERE project_id IS NOT NULL;
COMMIT;
