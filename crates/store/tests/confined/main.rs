//! Unpacking in a process of its own: what that cannot reach, and what becomes of a layer when the process does not do
//! what it should. The process is this program again, so that it runs with one thread.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod hostile;
mod same;
mod walls;

use std::process::ExitCode;

use brig_store::unpacker;

/// A test by its name.
type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("each_wall_stands_alone", walls::each_wall_stands_alone),
    ("all_walls_together", walls::all_walls_together),
    ("a_kernel_that_refuses_a_wall", walls::a_kernel_that_refuses_a_wall),
    ("a_layer_without_a_wall", walls::a_layer_without_a_wall),
    ("layers_are_the_same", same::layers_are_the_same),
    ("images_from_archives_too", same::images_from_archives_too),
    ("a_blob_is_handed_on_as_it_arrives", same::a_blob_is_handed_on_as_it_arrives),
    ("an_archive_is_decoded_outside", same::an_archive_is_decoded_outside),
    ("packing_is_what_was_said", same::packing_is_what_was_said),
    ("a_killed_process_is_one_failed_layer", faults::a_killed_process_is_one_failed_layer),
    ("nothing_of_the_host_is_open", faults::nothing_of_the_host_is_open),
    ("a_process_that_hangs_is_ended", faults::a_process_that_hangs_is_ended),
    ("slow_input_is_nobodys_fault", faults::slow_input_is_nobodys_fault),
    ("memory_has_an_end", faults::memory_has_an_end),
    ("input_that_breaks_off_is_no_layer", faults::input_that_breaks_off_is_no_layer),
    ("nonsense_is_not_believed", faults::nonsense_is_not_believed),
    ("whatever_it_does_is_one_failed_layer", hostile::whatever_it_does_is_one_failed_layer),
    ("it_dies_with_who_started_it", faults::it_dies_with_who_started_it),
    ("an_idle_zygote_ends", faults::an_idle_zygote_ends),
    ("the_zygote_is_one_and_replaced", faults::the_zygote_is_one_and_replaced),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[1..] {
        ["unpack"] => return unpacker::main(),
        ["probe", pieces, address, refused] => return walls::probe(pieces, address, refused),
        ["refused", piece] => {
            walls::refuse(piece);
            return unpacker::main();
        }
        ["hostile", deed, host] => return unpacker::serve(|channel, _| hostile::child(&channel, deed, host)),
        ["script", script] => return unpacker::serve(|channel, _| faults::script(channel, script)),
        ["victim", root] => return faults::victim(root),
        _ => {}
    }
    let wanted = arguments[1..].iter().find(|argument| !argument.starts_with('-'));
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted.is_none_or(|wanted| name.contains(wanted))) {
        let ok = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        failed += usize::from(!ok);
    }
    println!("\ntest result: {}. {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    ExitCode::from(u8::from(failed > 0))
}
