//! Debian's kcat: an old librdkafka, as it stands on many a laptop.

use millrace_tests::clients::{assert_same, lines_of};
use millrace_tests::{Side, eventually, peers, scratch};
use std::io::Write;
use std::process::Stdio;

/// What kcat prints with these arguments and this on its standard input.
fn kcat(side: &Side, input: &str, args: &[&str]) -> Vec<String> {
    let mut command = peers::debian("kcat", "kcat");
    command.args(["-b", &side.brokers, "-q"]).args(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kcat starts");
    child.stdin.take().expect("it was asked for").write_all(input.as_bytes()).expect("kcat reads");
    lines_of("kcat", &child.wait_with_output().expect("kcat ends"))
}

fn sees(side: &Side, topic: &str, group: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let lines: String = (0..500).map(|i| format!("key {}:value {i}\n", i % 7)).collect();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        seen.extend(kcat(side, &lines, &["-P", "-t", topic, "-K:", "-z", codec, "-p", "0", "-H", "codec=x"]));
    }
    seen.extend(kcat(side, "", &["-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-f", "%o %k %s %h\\n"]));
    seen.extend(kcat(side, "", &["-C", "-t", topic, "-p", "0", "-o", "-3", "-e", "-f", "%o %k %s\\n"]));
    for time in ["0", "-1", "-2"] {
        seen.extend(kcat(side, "", &["-Q", "-t", &format!("{topic}:0:{time}")]));
    }
    // A group of one reads all of it; what it has committed is where the next one begins.
    let dir = scratch("kcat");
    for count in ["1200", "1300"] {
        let mut command = peers::debian("kcat", "kcat");
        command.args(["-b", &side.brokers, "-q", "-G", group, "-c", count, "-X", "auto.offset.reset=earliest", "-f", "%p %o\\n", topic]);
        seen.extend(lines_of("kcat", &command.current_dir(dir.path()).output().expect("kcat starts")));
    }
    seen
}

#[test]
fn kcat_produces_with_every_codec_and_reads_it_back() {
    let sides = [Side::kafka(), Side::embedded()];
    let (topic, group) = (format!("kcat-{:08x}", fastrand::u32(..)), format!("kcat-{:08x}", fastrand::u32(..)));
    let [kafka, ours] = sides.each_ref().map(|side| sees(side, &topic, &group));
    assert_eq!(kafka.len(), 2_500 + 3 + 3 + 2_500);
    assert_same("kcat", [&sides[0], &sides[1]], [&kafka, &ours]);
}

#[test]
fn kcat_lists_brokers_topics_and_partitions_as_json() {
    let topic = format!("kcat-{:08x}", fastrand::u32(..));
    let listed = [Side::kafka(), Side::embedded()].map(|side| {
        kcat(&side, "x\n", &["-P", "-t", &topic]);
        eventually("the topic is listed", || {
            let text = kcat(&side, "", &["-L", "-J", "-t", &topic]).concat();
            let mut json: serde_json::Value = serde_json::from_str(&text).expect("kcat prints JSON");
            assert_eq!(json["brokers"][0]["name"], side.brokers);
            for unlike in ["originating_broker", "brokers"] {
                json.as_object_mut().expect("it is an object").remove(unlike);
            }
            (json["topics"][0]["partitions"][0]["leader"] == 1).then_some(json)
        })
    });
    assert_eq!(listed[0], listed[1]);
}
