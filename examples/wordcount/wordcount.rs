// build: rustc --target wasm32-wasip1 -O -C strip=symbols -o wordcount-rs.wasm wordcount.rs

// Counts the lines, words and bytes of standard input. The arguments -l, -w and
// -c choose which of them to print; without any, all three are.

use std::io::Read;
use std::process::exit;

const FLAGS: [&str; 3] = ["-l", "-w", "-c"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = arguments.iter().find(|one| !FLAGS.contains(&one.as_str())) {
        eprintln!("wordcount: unknown argument: {}", unknown);
        exit(2);
    }

    let mut text = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut text) {
        eprintln!("wordcount: standard input: {}", error);
        exit(1);
    }
    let counts = [
        text.iter().filter(|byte| **byte == b'\n').count(),
        text.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty()).count(),
        text.len(),
    ];

    let shown: Vec<String> = (0..FLAGS.len())
        .filter(|i| arguments.is_empty() || arguments.iter().any(|one| one == FLAGS[*i]))
        .map(|i| counts[i].to_string())
        .collect();
    println!("{}", shown.join(" "));
}
