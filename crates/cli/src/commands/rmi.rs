//! `rmi`: remove one or more images.
//! Owns its flags and what it prints.

use brig_api::image::DeleteItem;
use crate::client::Path;
use crate::command::each;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Kind, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::switch("force", "Force removal of the image").short('f'),
    Flag::switch("no-prune", "Do not delete untagged parents"),
    Flag::new("platform", Kind::List, "strings", "Remove only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["rmi", "image rm", "image remove"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Remove one or more images",
    example: "rmi alpine:3.20",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Images,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let platforms = m.list("platform").into_iter().flat_map(|list| list.split(',')).map(super::platform_json);
    let platforms = platforms.collect::<Result<Vec<String>>>()?;
    let client = context.client()?;
    each(&m.args, |name| {
        let path = Path::new("/images/{}", &[name])
            .query_flag("force", m.bool("force"))
            .query_flag("noprune", m.bool("no-prune"));
        let path = platforms.iter().fold(path, |path, platform| path.query("platforms", platform));
        match client.delete::<Option<Vec<DeleteItem>>>(&path) {
            Err(failure) if failure.not_found() && m.bool("force") => {
                terminal::say(&failure.message);
                Ok(())
            }
            other => terminal::print(&told(&other?.unwrap_or_default(), ["Untagged", "Deleted"])),
        }
    })
}

/// What was removed, a line each, told with the words for a name that went and for a thing.
pub fn told(items: &[DeleteItem], [untagged, deleted]: [&str; 2]) -> String {
    let line = |item: &DeleteItem| match item.deleted.as_str() {
        "" => format!("{untagged}: {}\n", item.untagged),
        id => format!("{deleted}: {id}\n"),
    };
    items.iter().map(line).collect()
}
