//! One correction of librdkafka, compiled in place of the library's own file.
//!
//! While a partition has as many messages in flight as an idempotent producer may have, librdkafka's broker thread still takes "at once" as its
//! next wake-up for what waits behind them. It can send none of it, so it polls tens of thousands of times a second until an answer comes: a whole
//! core while Kafka is frozen, half a core on a line of 50 ms. Here the wake-up of such a partition is left out: the answer itself wakes the thread.
//!
//! ```text
//! rdkafka-sys    OUT_DIR/src/rdkafka_broker.c ──> librdkafka.a        as it was published
//! this script    rdkafka_broker.c with PATCHES ──> an archive that is linked first and whole, so that the library's own file is never asked for
//! ```
//!
//! Another release of the library, or a file in which a place is not found exactly once, ends the build: look whether the fault is still there
//! (`rd_kafka_toppar_producer_serve`), and adapt or delete this script. Nothing else of the library is touched. Where the library is not built
//! from source (`dynamic-linking`) there is no correction, and the build says so.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The release these places belong to.
const VERSION: &str = "#define RD_KAFKA_VERSION 0x020c01ff";

/// Places in `rdkafka_broker.c`, each there once, and what stands there instead.
const PATCHES: [(&str, &str); 2] = [
    (
        "rkb->rkb_state == RD_KAFKA_BROKER_STATE_UP ? next_wakeup
                                                               : NULL,",
        "rkb->rkb_state == RD_KAFKA_BROKER_STATE_UP && !MILLRACE_AT_LIMIT(rkb, rktp) ? next_wakeup : NULL,",
    ),
    (
        "&rktp->rktp_msgq, &rktp->rktp_xmit_msgq, next_wakeup, now,",
        "&rktp->rktp_msgq, &rktp->rktp_xmit_msgq, MILLRACE_AT_LIMIT(rkb, rktp) ? NULL : next_wakeup, now,",
    ),
];

/// Whether nothing more of a partition may be sent before an answer comes.
const AT_LIMIT: &str = "
#define MILLRACE_AT_LIMIT(rkb, rktp)                                                                     \\
        (rd_kafka_is_idempotent((rkb)->rkb_rk) &&                                                        \\
         rd_atomic32_get(&(rktp)->rktp_msgs_inflight) >=                                                 \\
             ((rktp)->rktp_eos.wait_drain ? 1 : RD_KAFKA_IDEMP_MAX_INFLIGHT))
";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_RDKAFKA_ROOT");
    let Some(root) = std::env::var_os("DEP_RDKAFKA_ROOT").map(PathBuf::from) else {
        println!("cargo:warning=librdkafka is not built from source here: its broker thread spins while Kafka does not answer");
        return;
    };
    let source = root.join("src");
    let header = read(&source.join("rdkafka.h"));
    assert!(header.contains(VERSION), "librdkafka is another release than the one corrected here; see the head of runtime/kafka/build.rs");
    let mut text = read(&source.join("rdkafka_broker.c"));
    for (old, new) in PATCHES {
        assert_eq!(text.matches(old).count(), 1, "rdkafka_broker.c has changed at {old:?}; see the head of runtime/kafka/build.rs");
        text = text.replace(old, new);
    }
    let last_include = text.rfind("\n#include ").expect("it includes something") + 1;
    let line_end = last_include + text[last_include..].find('\n').expect("a line ends");
    text.insert_str(line_end, AT_LIMIT);

    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where"));
    let (file, object) = (out.join("rdkafka_broker.c"), out.join("rdkafka_broker.o"));
    std::fs::write(&file, text).expect("the corrected file can be written");
    // Compiled as the library was: its make file knows how.
    let make = if cfg!(target_os = "freebsd") { "gmake" } else { "make" };
    let flags = output(
        Command::new(make)
            .env_remove("MAKEFLAGS")
            .args(["--no-print-directory", "--silent", "--eval", "millrace-flags: ; @echo $(CC) $(CPPFLAGS) $(CFLAGS)", "millrace-flags"])
            .current_dir(&source),
    );
    let mut words = flags.split_whitespace();
    let compiler = words.next().expect("the library was compiled with something");
    output(Command::new(compiler).args(words).arg("-c").arg(&file).arg("-o").arg(&object).current_dir(&source));
    let archive = out.join("libmillrace_rdkafka_broker.a");
    let _ = std::fs::remove_file(&archive);
    output(Command::new("ar").arg("crs").arg(&archive).arg(&object));
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static:+whole-archive=millrace_rdkafka_broker");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
