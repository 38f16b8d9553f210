//! `import`: import the contents from a tarball to create a filesystem image.
//! Owns its flags and what it prints.

use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::parse::reference::Reference;
use crate::progress;
use std::io::Read;

const FLAGS: &[Flag] = &[
    Flag::list("change", "Apply Dockerfile instruction to the created image").short('c'),
    Flag::text("message", "Set commit message for imported image").short('m'),
    Flag::text("platform", "Set platform if server is multi-platform capable"),
    super::TIMESTAMP,
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["import", "image import"],
    usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    about: "Import the contents from a tarball to create a filesystem image",
    example: "import rootfs.tar my/base:1",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let source = m.args[0].as_str();
    let client = context.client()?;
    let mut path = Path::new("/images/create", &[]);
    if source.starts_with("http://") || source.starts_with("https://") {
        path = path.query("fromSrc", source);
    } else {
        path = path.query("fromSrc", "-");
    }
    if let Some(name) = m.args.get(1) {
        let name = super::without_digest(Reference::parse(name)?)?;
        path = path.query("repo", &name.familiar_name()).query_text("tag", name.tag.as_deref().unwrap_or(""));
    }
    path = path.query_text("message", m.text("message")).query_text("platform", m.text("platform"));
    path = path.query_text("timestamp", &super::timestamp(m));
    for change in m.list("change") {
        path = path.query("changes", change);
    }
    let answer = if source.contains("://") {
        client.request("POST", &path, &[], None)?
    } else {
        let mut bytes: Box<dyn Read> = match source {
            "-" => Box::new(std::io::stdin()),
            file => Box::new(super::open_archive(file)?),
        };
        client.post_stream(&path, &mut *bytes, "application/x-tar")?
    };
    progress::draw(answer, false, false).map(|()| 0)
}
