//! Which methods each path has, read from the published document: for 405 answers and for `HEAD`.

use actix_web::{dev::ResourceDef, http::Method};
use serde_json::Value;

/// The paths of the API and their methods.
pub struct RouteTable(Vec<(ResourceDef, Vec<Method>)>);

impl RouteTable {
    /// The table of a document, and of `more` paths that are served by `GET` but not documented.
    pub fn new(document: &Value, more: &[&str]) -> Self {
        let documented = document["paths"].as_object().into_iter().flatten().map(|(path, item)| {
            let methods = item.as_object().into_iter().flatten();
            let methods = methods.filter_map(|(method, _)| method.to_ascii_uppercase().parse().ok());
            (ResourceDef::new(path.as_str()), methods.collect())
        });
        let more = more.iter().map(|path| (ResourceDef::new(*path), vec![Method::GET]));
        Self(documented.chain(more).collect())
    }

    /// The value of `Allow` for a path, `None` when there is no such path.
    pub fn allowed(&self, path: &str) -> Option<String> {
        let mut methods: Vec<&str> = self.methods(path).map(Method::as_str).collect();
        if methods.is_empty() {
            return None;
        }
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        methods.dedup();
        Some(methods.join(", "))
    }

    /// Whether `HEAD` on the path is answered by its `GET`: it has one, and no `HEAD` of its own.
    pub fn serves_head_by_get(&self, path: &str) -> bool {
        self.methods(path).any(|method| method == Method::GET)
            && !self.methods(path).any(|method| method == Method::HEAD)
    }

    fn methods<'t>(&'t self, path: &'t str) -> impl Iterator<Item = &'t Method> {
        self.0.iter().filter(move |(pattern, _)| pattern.is_match(path)).flat_map(|(_, methods)| methods)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_allows_what_the_document_says_and_head_wherever_get_is() {
        let document = json!({"paths": {"/a/{id}": {"get": {}, "delete": {}}, "/a/{id}/b": {"get": {}, "head": {}}}});
        let table = RouteTable::new(&document, &["/docs/{tail}*"]);
        assert_eq!(table.allowed("/a/1").as_deref(), Some("DELETE, GET, HEAD"));
        assert_eq!(table.allowed("/a"), None);
        assert!(table.serves_head_by_get("/a/1") && table.serves_head_by_get("/docs/index.html"));
        assert!(!table.serves_head_by_get("/a/1/b"));
    }
}
