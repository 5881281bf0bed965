//! The workspace's crates and what they depend on, from `cargo metadata`.

use std::process::Command;

use serde_json::Value;

/// A crate of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// An arrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// The version requirement, like `=1.2.3`.
    pub(crate) version: String,
    /// Whether only tests use it.
    pub(crate) for_tests: bool,
    /// Whether it lies in this tree.
    pub(crate) ours: bool,
}

/// Asks Cargo about the workspace around the current folder.
pub(crate) fn workspace() -> Result<Vec<Package>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let json: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata is not JSON: {error}"))?;
    packages(&json).ok_or_else(|| "cargo metadata has an unknown form".into())
}

fn packages(json: &Value) -> Option<Vec<Package>> {
    json.get("packages")?
        .as_array()?
        .iter()
        .map(package)
        .collect()
}

fn package(json: &Value) -> Option<Package> {
    let dependencies = json.get("dependencies")?.as_array()?.iter().map(dependency);
    Some(Package {
        name: text(json, "name")?,
        dependencies: dependencies.collect::<Option<_>>()?,
    })
}

fn dependency(json: &Value) -> Option<Dependency> {
    Some(Dependency {
        name: text(json, "name")?,
        version: text(json, "req")?,
        for_tests: json.get("kind").and_then(Value::as_str) == Some("dev"),
        ours: json.get("path").is_some_and(Value::is_string),
    })
}

fn text(json: &Value, key: &str) -> Option<String> {
    Some(json.get(key)?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read() {
        let json = serde_json::json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "req": "*", "kind": null, "path": "/b"},
            {"name": "c", "req": "=1.0.0", "kind": "dev"},
        ]}]});
        let found = packages(&json).unwrap();
        assert_eq!(found[0].name, "a");
        assert!(found[0].dependencies[0].ours && !found[0].dependencies[0].for_tests);
        assert!(!found[0].dependencies[1].ours && found[0].dependencies[1].for_tests);
        assert_eq!(packages(&serde_json::json!({"packages": [{}]})), None);
    }
}
