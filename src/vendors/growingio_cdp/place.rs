//! A connection's settings, and the paths they mean. Older deployments have paths of the whole data centre and of a
//! project; newer ones of a project and of a space of it. Segments are a space's, which older deployments call a project.

use serde::Deserialize;
use serde_json::{Value, json};

use super::wire::{is_path_part, path_part};
use crate::exports::{problem::FieldError, request::from_json};

/// What a connection's `settings` look like.
pub fn schema() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["base_url", "project_id"],
        "properties": {
            "base_url": {
                "type": "string",
                "format": "uri",
                "title": "Address of the deployment",
                "description": "The API host of your own CDP deployment",
                "examples": ["https://cdp.example.com"]
            },
            "project_id": {
                "type": "string", "minLength": 1, "title": "Project", "examples": ["WlGk4Daj"]
            },
            "space_id": {
                "type": "string",
                "minLength": 1,
                "title": "Space",
                "description": "Leave out for the whole project, and on older deployments, which have no spaces in their paths",
                "examples": ["VKwkPmqX"]
            },
            "path_family": {
                "type": "string",
                "enum": ["space", "project", "data_center"],
                "title": "Scope of tags and users",
                "description": "`space` where a space is set, else `project`. With a space, `project` takes tags and users from the whole project and segments from the space. `data_center` is for older deployments and has no segments"
            },
            "file_format": {
                "type": "string",
                "enum": ["json", "csv"],
                "default": "json",
                "title": "Files of audience exports",
                "description": "Records are the same; `raw` results are these files"
            },
            "csv_header": {
                "type": "string",
                "enum": ["key", "name"],
                "default": "key",
                "title": "Header of csv files",
                "description": "Keys, or the names that the console shows; only for csv"
            }
        }
    })
}

/// `settings` as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(rename = "base_url")]
    _base_url: String,
    project_id: String,
    #[serde(default)]
    space_id: Option<String>,
    #[serde(default)]
    path_family: Option<Family>,
    #[serde(default)]
    file_format: FileFormat,
    #[serde(default)]
    csv_header: Option<CsvHeader>,
}

/// Whose tags and users the paths mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Space,
    Project,
    DataCenter,
}

/// How the files of an audience export are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    #[default]
    Json,
    Csv,
}

impl FileFormat {
    /// As the vendor spells it, and the extension of its files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
        }
    }
}

/// What the first row of a csv file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CsvHeader {
    #[default]
    Key,
    Name,
}

impl CsvHeader {
    /// As the vendor spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Name => "name",
        }
    }
}

/// Checked settings but the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    project: String,
    space: Option<String>,
    family: Family,
    pub file_format: FileFormat,
    pub csv_header: CsvHeader,
}

impl Place {
    /// Reads `settings`; whether `base_url` is an address is not its business.
    ///
    /// # Errors
    /// Settings that cannot work, with pointers below `/settings`.
    pub fn read(settings: &Value) -> Result<Self, Vec<FieldError>> {
        let settings = from_json::<Settings>(settings.clone(), "/settings").map_err(|error| vec![error])?;
        let mut errors = Vec::new();
        let ids = [("project_id", Some(&settings.project_id)), ("space_id", settings.space_id.as_ref())];
        for (name, id) in ids {
            if id.is_some_and(|id| !is_path_part(id.trim()) || id.trim() != id || id.len() > 255) {
                let detail = "an id of 1 to 255 characters without spaces around it";
                errors.push(FieldError::new(format!("/settings/{name}"), "invalid", detail));
            }
        }
        match (settings.path_family, &settings.space_id) {
            (Some(Family::Space), None) => {
                let detail = "the paths of a space need its id";
                errors.push(FieldError::new("/settings/space_id", "required", detail));
            }
            (Some(Family::DataCenter), Some(_)) => {
                let detail = "deployments with paths of the whole data centre have no spaces; leave out `space_id`";
                errors.push(FieldError::new("/settings/path_family", "not_allowed", detail));
            }
            _ => {}
        }
        if settings.csv_header.is_some() && settings.file_format != FileFormat::Csv {
            let detail = "only csv files have a header; set `file_format` to `csv`";
            errors.push(FieldError::new("/settings/csv_header", "not_allowed", detail));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let default = if settings.space_id.is_some() { Family::Space } else { Family::Project };
        Ok(Self {
            project: settings.project_id,
            space: settings.space_id,
            family: settings.path_family.unwrap_or(default),
            file_format: settings.file_format,
            csv_header: settings.csv_header.unwrap_or_default(),
        })
    }

    /// Whether there are segments: they are no data centre's.
    pub fn has_segments(&self) -> bool {
        self.family != Family::DataCenter
    }

    fn project(&self) -> String {
        format!("/v1/api/projects/{}", path_part(&self.project))
    }

    fn space(&self) -> String {
        let project = self.project();
        self.space.as_ref().map_or(project.clone(), |space| format!("{project}/spaces/{}", path_part(space)))
    }

    fn scope(&self) -> String {
        match self.family {
            Family::Space => self.space(),
            Family::Project => self.project(),
            Family::DataCenter => "/v1/api".to_owned(),
        }
    }

    /// The list of tags or segments.
    pub fn list(&self, list: List) -> String {
        let scope = if list == List::Segments { self.space() } else { self.scope() };
        format!("{scope}/{}", list.path())
    }

    /// Where an export of an audience is begun.
    pub fn export_jobs(&self, audience: &AudienceRef<'_>) -> String {
        format!("{}/{}/export_jobs", self.list(audience.list), path_part(audience.key))
    }

    /// Where an audience is computed anew. For a tag only the project's path is documented, also where there are spaces.
    /// Source: `developer-manual/open-api/cdp/project/project-compute-user-tag.md`,
    /// `cdp/space/space-compute-segment-profile.md`, `user-api/project-compute-user-tag.md`.
    pub fn computes(&self, audience: &AudienceRef<'_>) -> String {
        let scope = if audience.list == List::Segments { self.space() } else { self.project() };
        format!("{scope}/{}/{}/computes", audience.list.path(), path_part(audience.key))
    }

    /// Whether an audience can be computed anew by a documented call.
    pub fn computes_anew(&self) -> bool {
        self.family != Family::DataCenter
    }

    /// The two addresses of a job's result. Both are documented, sometimes on one page.
    pub fn job_results(&self, id: &str) -> [String; 2] {
        let id = path_part(id);
        [format!("/v1/api/job/result/{id}"), format!("{}/job/result/{id}", self.project())]
    }

    /// The query for one user by an identity, whose key has no prefix here.
    /// Source: `developer-manual/open-api/cdp/{space/space-search-user,project/project-search-user}.md`.
    pub fn user(&self, identity: &str, value: &str) -> String {
        format!("{}/users/{}/{}", self.scope(), path_part(identity), path_part(value))
    }

    /// The results of a saved analysis. The page on retentions calls the id in this path a space's, so for those the
    /// space comes first and the project second.
    pub fn analyses(&self, kind: &str, id: &str) -> Vec<String> {
        let space = self.space.as_ref().filter(|_| kind == "retention");
        let owners = space.into_iter().chain([&self.project]);
        let path = |owner: &String| {
            format!("/v1/api/projects/{}/analysis/{kind}/{}/chartdata", path_part(owner), path_part(id))
        };
        owners.map(path).collect()
    }
}

/// A list of audiences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Tags,
    Segments,
}

impl List {
    /// The `kind` of its rows, and the tag of its data.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Tags => "tag",
            Self::Segments => "segment",
        }
    }

    /// By its [`List::kind`].
    pub fn of_kind(kind: &str) -> Option<Self> {
        [Self::Tags, Self::Segments].into_iter().find(|list| list.kind() == kind)
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Tags => "user_tags",
            Self::Segments => "segment_profiles",
        }
    }
}

/// A tag or segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudienceRef<'a> {
    pub list: List,
    pub key: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(more: &Value) -> Result<Place, Vec<String>> {
        let mut settings = json!({"base_url": "https://cdp.test", "project_id": "p"});
        for (name, value) in more.as_object().unwrap() {
            settings[name] = value.clone();
        }
        let read = Place::read(&settings);
        read.map_err(|errors| errors.into_iter().map(|error| error.pointer).collect())
    }

    const TAG: AudienceRef<'_> = AudienceRef { list: List::Tags, key: "tag_$a" };
    const SEGMENT: AudienceRef<'_> = AudienceRef { list: List::Segments, key: "seg/1" };

    #[test]
    fn every_path_family_has_its_paths() {
        for (settings, tags, segments) in [
            (json!({}), "/v1/api/projects/p", Some("/v1/api/projects/p")),
            (json!({"space_id": "s"}), "/v1/api/projects/p/spaces/s", Some("/v1/api/projects/p/spaces/s")),
            (
                json!({"space_id": "s", "path_family": "project"}),
                "/v1/api/projects/p",
                Some("/v1/api/projects/p/spaces/s"),
            ),
            (json!({"path_family": "data_center"}), "/v1/api", None),
        ] {
            let place = place(&settings).unwrap();
            assert_eq!(place.list(List::Tags), format!("{tags}/user_tags"));
            assert_eq!(place.export_jobs(&TAG), format!("{tags}/user_tags/tag_%24a/export_jobs"));
            assert_eq!(place.user("$basic_userId", "a/b"), format!("{tags}/users/%24basic_userId/a%2Fb"));
            assert_eq!(place.has_segments(), segments.is_some());
            if let Some(segments) = segments {
                assert_eq!(place.export_jobs(&SEGMENT), format!("{segments}/segment_profiles/seg%2F1/export_jobs"));
                assert_eq!(place.computes(&SEGMENT), format!("{segments}/segment_profiles/seg%2F1/computes"));
                assert_eq!(place.computes(&TAG), "/v1/api/projects/p/user_tags/tag_%24a/computes");
            }
        }
    }

    #[test]
    fn a_retention_is_asked_below_the_space_first() {
        let place = place(&json!({"space_id": "s"})).unwrap();
        let retention = place.analyses("retention", "a b");
        assert_eq!(
            retention,
            ["s", "p"].map(|owner| format!("/v1/api/projects/{owner}/analysis/retention/a%20b/chartdata"))
        );
        assert_eq!(place.analyses("olap_event", "x"), ["/v1/api/projects/p/analysis/olap_event/x/chartdata"]);
    }

    #[test]
    fn settings_that_contradict_each_other_are_pointed_at() {
        for (settings, pointer) in [
            (json!({"path_family": "space"}), "/settings/space_id"),
            (json!({"path_family": "data_center", "space_id": "s"}), "/settings/path_family"),
            (json!({"path_family": "galaxy"}), "/settings/path_family"),
            (json!({"csv_header": "name"}), "/settings/csv_header"),
            (json!({"csv_header": "key", "file_format": "json"}), "/settings/csv_header"),
            (json!({"file_format": "xml"}), "/settings/file_format"),
            (json!({"space_id": ".."}), "/settings/space_id"),
        ] {
            assert_eq!(place(&settings).unwrap_err(), [pointer], "{settings}");
        }
        let csv = place(&json!({"file_format": "csv", "csv_header": "name"})).unwrap();
        assert_eq!((csv.file_format, csv.csv_header), (FileFormat::Csv, CsvHeader::Name));
    }
}
