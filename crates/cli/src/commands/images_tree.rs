//! `images --tree`: each name with what it leads to, as a tree. Owns how that is drawn.

use crate::human;
use crate::parse::reference::Reference;
use brig_api::image::{ManifestSummary, Platform, Summary};

struct Row {
    name: String,
    id: String,
    used: String,
    content: String,
    extra: &'static str,
}

/// The whole table.
pub fn draw(images: &[Summary]) -> String {
    let mut rows = vec![Row {
        name: "IMAGE".into(),
        id: "ID".into(),
        used: "DISK USAGE".into(),
        content: "CONTENT SIZE".into(),
        extra: "EXTRA",
    }];
    for image in images {
        let parts: Vec<&ManifestSummary> =
            image.manifests.iter().flatten().filter(|part| part.kind == "image").collect();
        let names: Vec<String> = image
            .repo_tags
            .iter()
            .flatten()
            .filter_map(|name| Reference::parse(name).ok())
            .map(|name| name.familiar())
            .collect();
        let used = image.containers > 0 || parts.iter().any(|part| is_used(part));
        rows.push(Row {
            name: if names.is_empty() { "<untagged>".into() } else { names.join(", ") },
            id: human::short_id(&image.id).to_owned(),
            used: human::size3(image.size),
            content: human::size3(parts.iter().map(|part| part.size.content).sum()),
            extra: if used { "U" } else { "" },
        });
        // A lone image says nothing that its name does not.
        for (nth, part) in parts.iter().enumerate().filter(|_| parts.len() > 1) {
            let platform = part.image_data.as_ref().map(|data| platform(&data.platform)).unwrap_or_default();
            let branch = if nth + 1 == parts.len() { "└─" } else { "├─" };
            let here = |text: String| if part.available { text } else { "-".to_owned() };
            rows.push(Row {
                name: format!("{branch} {platform}"),
                id: human::short_id(&part.id).to_owned(),
                used: here(human::size3(part.size.total)),
                content: here(human::size3(part.size.content)),
                extra: if is_used(part) { "U" } else { "" },
            });
        }
    }
    let width = |of: fn(&Row) -> &str| rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
    let (name, id) = (width(|row| &row.name), width(|row| &row.id));
    let (used, content) = (width(|row| &row.used), width(|row| &row.content));
    let line = |row: &Row| {
        let text = format!(
            "{:name$}   {:id$}   {:>used$}   {:>content$}   {}",
            row.name, row.id, row.used, row.content, row.extra
        );
        format!("{}\n", text.trim_end())
    };
    rows.iter().map(line).collect()
}

fn is_used(part: &ManifestSummary) -> bool {
    part.image_data.as_ref().is_some_and(|data| data.containers.as_ref().is_some_and(|list| !list.is_empty()))
}

fn platform(of: &Platform) -> String {
    let variant = if of.variant.is_empty() { String::new() } else { format!("/{}", of.variant) };
    format!("{}/{}{variant}", of.os, of.architecture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_api::image::ImageData;

    #[test]
    fn parts_are_below_their_name() {
        let part = |architecture: &str, available| ManifestSummary {
            id: format!("sha256:{}", "ab".repeat(32)),
            available,
            kind: "image".into(),
            image_data: Some(ImageData {
                platform: Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() },
                containers: Some(vec!["x".into()]).filter(|_| available),
                ..ImageData::default()
            }),
            ..ManifestSummary::default()
        };
        let image = Summary {
            id: format!("sha256:{}", "12".repeat(32)),
            repo_tags: Some(vec!["multi:v1".into()]),
            manifests: Some(vec![part("amd64", true), part("arm64", false)]),
            ..Summary::default()
        };
        let lone = Summary { manifests: Some(vec![part("amd64", true)]), ..Summary::default() };
        let shown = draw(&[image, lone]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 5, "{shown}");
        assert!(lines[1].starts_with("multi:v1") && lines[1].ends_with('U'), "{shown}");
        assert!(lines[2].starts_with("├─ linux/amd64") && lines[3].starts_with("└─ linux/arm64"), "{shown}");
        assert!(lines[3].trim_end().ends_with('-') && lines[4].starts_with("<untagged>"), "{shown}");
    }
}
