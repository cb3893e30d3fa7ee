//! Compares docrow's privileges at the source, as the server reports them, with those that it needs, and
//! makes the statement that grants the rest.
//!
//! The server's rules of which privilege covers which, as far as they matter here (its
//! `authorization_session_impl.cpp`, and observed on 6.0.5): a privilege on `{db: "", collection: ""}` covers
//! every database except `local` and `config`; one on `{db: "shop", collection: ""}` covers all of `shop`
//! except its system collections.

use mongodb::bson::{Bson, Document, doc};

use super::server::Source;
use crate::{error::Result, roles};

/// A set of privileges that docrow needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeededPrivileges {
    /// Its purpose, for people: a noun.
    pub purpose: String,
    /// `None`: docrow does not work without it. `Some`: it works less well; what that means.
    pub otherwise: Option<&'static str>,
    resource: PrivilegeResource,
    actions: &'static [&'static str],
    /// The built-in role that has them and not much more, and its database.
    role: Option<(&'static str, String)>,
}

/// The missing part of a need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPrivilege {
    /// The actions.
    pub actions: Vec<&'static str>,
    /// The statement that grants them, for an administrator in mongosh: to the custom role of this user, or
    /// else a built-in role. `None`: only roles with far more privileges have them.
    pub statement: Option<String>,
}

/// What a privilege is on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PrivilegeResource {
    /// Everything.
    Any,
    /// Collections, by database and name; an empty string stands for all there are.
    Collections { database: String, collection: String },
    /// The cluster, or something unknown here.
    Other,
}

#[derive(Clone, Debug)]
struct GrantedPrivilege {
    resource: PrivilegeResource,
    actions: Vec<String>,
}

/// The privileges of the user in the URI.
#[derive(Clone, Debug)]
pub struct UserAccess {
    /// Name and database. `None`: the server has no access control, so everything is allowed.
    user: Option<(String, String)>,
    /// All roles of the user, also indirect ones: name and database.
    roles: Vec<(String, String)>,
    privileges: Vec<GrantedPrivilege>,
}

/// Built-in roles, whose privileges can't be changed.
const BUILT_IN: [&str; 22] = [
    "read",
    "readWrite",
    "dbAdmin",
    "dbOwner",
    "userAdmin",
    "clusterAdmin",
    "clusterManager",
    "clusterMonitor",
    "hostManager",
    "enableSharding",
    "directShardOperations",
    "backup",
    "restore",
    "readAnyDatabase",
    "readWriteAnyDatabase",
    "userAdminAnyDatabase",
    "dbAdminAnyDatabase",
    "root",
    "searchCoordinator",
    "atlasAdmin",
    "__queryableBackup",
    "__system",
];

impl Source {
    /// The privileges of this user.
    pub async fn access(&self) -> Result<UserAccess> {
        let request = self.request("ask what the user may do", None);
        let command = doc! { "connectionStatus": 1, "showPrivileges": true };
        let reply = self.command(&request, "admin", command).await;
        Ok(UserAccess::read(&reply.map_err(|e| request.failed(&e))?))
    }

    /// The privileges for replicating collections of these databases.
    pub fn needs(&self, databases: &[String]) -> Vec<NeededPrivileges> {
        let mut needs = needs(databases);
        // There is no single oplog, and docrow does not ask a router for chunks, which would refuse to split.
        needs.retain(|need| !self.sharded || need.otherwise.is_none());
        needs
    }
}

fn needs(databases: &[String]) -> Vec<NeededPrivileges> {
    let mut needs = Vec::new();
    let in_all = |database: &str| PrivilegeResource::Collections {
        database: database.to_owned(),
        collection: String::new(),
    };
    if databases.len() > 1 {
        needs.push(NeededPrivileges {
            purpose: "reading and following all databases, as the collections are in several".to_owned(),
            otherwise: None,
            resource: in_all(""),
            actions: &["changeStream", "find"],
            role: Some(("readAnyDatabase", "admin".to_owned())),
        });
    }
    for database in databases {
        let actions: &[&str] = match databases {
            [_] => &["changeStream", "collStats", "find", "listCollections"],
            _ => &["collStats", "listCollections"],
        };
        needs.push(NeededPrivileges {
            purpose: format!("reading and following the database {database}"),
            otherwise: None,
            resource: in_all(database),
            actions,
            role: Some(("read", database.clone())),
        });
    }
    needs.push(NeededPrivileges {
        purpose: "the oplog's window".to_owned(),
        otherwise: Some(
            "how long docrow may be stopped without losing history is unknown, or known only roughly",
        ),
        resource: PrivilegeResource::Collections {
            database: "local".to_owned(),
            collection: "oplog.rs".to_owned(),
        },
        actions: &["collStats", "find"],
        role: Some(("read", "local".to_owned())),
    });
    for database in databases {
        needs.push(NeededPrivileges {
            purpose: format!("splitVector on the database {database}"),
            otherwise: Some("chunks are split by a sample of the _ids, and are less even"),
            resource: in_all(database),
            actions: &["splitVector"],
            role: None,
        });
    }
    needs
}

impl NeededPrivileges {
    /// What is granted for it, for people: `changeStream, find on shop`.
    pub fn shown(&self) -> String {
        format!("{} on {}", self.actions.join(", "), self.resource.shown())
    }
}

impl PrivilegeResource {
    fn shown(&self) -> String {
        match self {
            Self::Collections { database, .. } if database.is_empty() => "all databases".to_owned(),
            Self::Collections { database, collection } if collection.is_empty() => database.clone(),
            Self::Collections { database, collection } => format!("{database}.{collection}"),
            Self::Any | Self::Other => "everything".to_owned(),
        }
    }

    fn read(resource: &Document) -> Self {
        let text = |key| resource.get_str(key).ok().map(str::to_owned);
        match (text("db"), text("collection")) {
            (Some(database), Some(collection)) => Self::Collections { database, collection },
            _ if resource.get_bool("anyResource").unwrap_or(false) => Self::Any,
            _ => Self::Other,
        }
    }

    /// Whether a privilege on it covers `wanted`.
    fn covers(&self, wanted: &Self) -> bool {
        let (
            Self::Collections { database, collection },
            Self::Collections { database: of, collection: wanted },
        ) = (self, wanted)
        else {
            return *self == Self::Any;
        };
        let is_everywhere = database.is_empty() && (of != "local" || !collection.is_empty());
        (database == of || is_everywhere) && (collection.is_empty() || collection == wanted)
    }
}

impl UserAccess {
    fn read(reply: &Document) -> Self {
        let info = reply.get_document("authInfo").cloned().unwrap_or_default();
        let list = |key: &str| info.get_array(key).cloned().unwrap_or_default();
        let named = |entry: &Bson, key: &str| {
            let entry = entry.as_document()?;
            Some((entry.get_str(key).ok()?.to_owned(), entry.get_str("db").ok()?.to_owned()))
        };
        let privilege = |entry: &Bson| {
            let entry = entry.as_document()?;
            let resource = PrivilegeResource::read(entry.get_document("resource").ok()?);
            let actions = entry.get_array("actions").ok()?.iter();
            Some(GrantedPrivilege {
                resource,
                actions: actions.filter_map(Bson::as_str).map(str::to_owned).collect(),
            })
        };
        Self {
            user: list("authenticatedUsers").iter().find_map(|entry| named(entry, "user")),
            roles: list("authenticatedUserRoles").iter().filter_map(|entry| named(entry, "role")).collect(),
            privileges: list("authenticatedUserPrivileges").iter().filter_map(privilege).collect(),
        }
    }

    /// The user, for people, `user@database`; `None`: the server has no access control.
    pub fn user(&self) -> Option<String> {
        self.user.as_ref().map(|(name, database)| format!("{name}@{database}"))
    }

    /// The missing part of a need, if any.
    pub fn missing(&self, need: &NeededPrivileges) -> Option<MissingPrivilege> {
        let (user, of) = self.user.as_ref()?;
        let may = |action: &str| {
            let has = |privilege: &GrantedPrivilege| privilege.actions.iter().any(|has| has == action);
            self.privileges
                .iter()
                .any(|privilege| privilege.resource.covers(&need.resource) && has(privilege))
        };
        let actions: Vec<_> = need.actions.iter().copied().filter(|action| !may(action)).collect();
        if actions.is_empty() {
            return None;
        }
        let statement = match (self.own_role(), &need.resource, &need.role) {
            // The whole need: privileges that exist stay as they are.
            (Some(own), PrivilegeResource::Collections { database, collection }, _) => {
                let privilege = roles::privilege(database, collection, need.actions);
                Some(roles::grant_privilege(own, &privilege))
            }
            (_, _, Some((role, on))) => Some(roles::grant_role((user, of), (role, on))),
            (_, _, None) => None,
        };
        Some(MissingPrivilege { actions, statement })
    }

    /// A role that can be granted privileges in every database: a custom one in `admin`.
    fn own_role(&self) -> Option<&str> {
        let own =
            |(role, database): &&(String, String)| database == "admin" && !BUILT_IN.contains(&role.as_str());
        self.roles.iter().find(own).map(|(role, _)| role.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(roles: &[&str], privileges: &[(Document, &[&str])]) -> UserAccess {
        let roles: Vec<_> = roles.iter().map(|role| doc! { "role": *role, "db": "admin" }).collect();
        let privileges: Vec<_> = privileges
            .iter()
            .map(|(resource, actions)| doc! { "resource": resource.clone(), "actions": actions.to_vec() })
            .collect();
        UserAccess::read(&doc! { "authInfo": {
            "authenticatedUsers": [{ "user": "do\"crow", "db": "admin" }],
            "authenticatedUserRoles": roles,
            "authenticatedUserPrivileges": privileges,
        } })
    }

    const READ: &[&str] = &["find", "changeStream", "collStats", "listCollections", "listIndexes"];

    fn missing(access: &UserAccess, databases: &[&str]) -> Vec<(Vec<&'static str>, String)> {
        let databases: Vec<_> = databases.iter().map(|&name| name.to_owned()).collect();
        let needs = needs(&databases).into_iter().filter(|need| need.otherwise.is_none());
        let missing = needs.filter_map(|need| access.missing(&need));
        missing
            .map(|MissingPrivilege { actions, statement }| (actions, statement.unwrap_or_default()))
            .collect()
    }

    /// What is optional, and only in a role with far more privileges, is never recommended.
    #[test]
    fn no_role_is_advised_that_may_do_far_more() {
        let of = |db: &str| doc! { "db": db, "collection": "" };
        let user = access(&["read"], &[(of("shop"), READ)]);
        let optional = needs(&["shop".to_owned()]).into_iter().filter(|need| need.otherwise.is_some());
        let statements: Vec<_> =
            optional.filter_map(|need| user.missing(&need)).map(|missing| missing.statement).collect();
        let oplog = "db.getSiblingDB(\"admin\").grantRolesToUser(\"do\\\"crow\", [{ role: \"read\", db: \"local\" }])";
        assert_eq!(statements, [Some(oplog.to_owned()), None]);
    }

    #[test]
    fn built_in_roles_are_enough() {
        let of = |db: &str| doc! { "db": db, "collection": "" };
        assert_eq!(missing(&access(&["read"], &[(of("shop"), READ)]), &["shop"]), []);
        assert_eq!(missing(&access(&["readAnyDatabase"], &[(of(""), READ)]), &["shop", "crm"]), []);
        assert_eq!(
            missing(&access(&["root"], &[(doc! { "anyResource": true }, READ)]), &["shop", "crm"]),
            []
        );
        let found = missing(&access(&["read"], &[(of("shop"), READ)]), &["crm"]);
        let granted =
            r#"db.getSiblingDB("admin").grantRolesToUser("do\"crow", [{ role: "read", db: "crm" }])"#;
        assert_eq!(
            found,
            [(vec!["changeStream", "collStats", "find", "listCollections"], granted.to_owned())]
        );
        // A stream over several databases is one over all.
        let found = missing(&access(&["read"], &[(of("shop"), READ), (of("crm"), READ)]), &["crm", "shop"]);
        assert!(matches!(&*found, [(_, statement)] if statement.contains("readAnyDatabase")), "{found:?}");
    }

    #[test]
    fn a_role_of_its_own_gets_what_is_missing() {
        let resource = || doc! { "db": "shop", "collection": "" };
        let found = missing(&access(&["read", "docrow"], &[(resource(), &["find", "collStats"])]), &["shop"]);
        let granted = "db.getSiblingDB(\"admin\").grantPrivilegesToRole(\"docrow\", [{ resource: { db: \"shop\", \
            collection: \"\" }, actions: [\"changeStream\", \"collStats\", \"find\", \"listCollections\"] }])";
        assert_eq!(found, [(vec!["changeStream", "listCollections"], granted.to_owned())]);
    }

    #[test]
    fn what_covers_what() {
        let of = |database: &str, collection: &str| PrivilegeResource::Collections {
            database: database.to_owned(),
            collection: collection.to_owned(),
        };
        let oplog = of("local", "oplog.rs");
        assert!(of("local", "").covers(&oplog) && of("local", "oplog.rs").covers(&oplog));
        assert!(
            PrivilegeResource::Any.covers(&oplog)
                && !of("", "").covers(&oplog)
                && !PrivilegeResource::Other.covers(&oplog)
        );
        assert!(of("", "").covers(&of("shop", "")) && of("", "").covers(&of("", "")));
        assert!(!of("shop", "").covers(&of("", "")) && !of("shop", "orders").covers(&of("shop", "")));
    }

    #[test]
    fn without_access_control_nothing_is_missing() {
        let open = UserAccess::read(
            &doc! { "authInfo": { "authenticatedUsers": [], "authenticatedUserRoles": [] } },
        );
        assert_eq!((open.user(), missing(&open, &["shop"])), (None, Vec::new()));
    }
}
