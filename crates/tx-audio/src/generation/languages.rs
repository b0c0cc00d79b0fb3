//! The languages that Whisper was trained on.
//!
//! Reference: transformers 5.23.0, `models/whisper/tokenization_whisper.py`.

use tx_core::error::{Error, Result};

/// Codes and names.
#[rustfmt::skip]
const LANGUAGES: [(&str, &str); 100] = [
    ("en", "english"), ("zh", "chinese"), ("de", "german"), ("es", "spanish"), ("ru", "russian"), ("ko", "korean"),
    ("fr", "french"), ("ja", "japanese"), ("pt", "portuguese"), ("tr", "turkish"), ("pl", "polish"),
    ("ca", "catalan"), ("nl", "dutch"), ("ar", "arabic"), ("sv", "swedish"), ("it", "italian"), ("id", "indonesian"),
    ("hi", "hindi"), ("fi", "finnish"), ("vi", "vietnamese"), ("he", "hebrew"), ("uk", "ukrainian"), ("el", "greek"),
    ("ms", "malay"), ("cs", "czech"), ("ro", "romanian"), ("da", "danish"), ("hu", "hungarian"), ("ta", "tamil"),
    ("no", "norwegian"), ("th", "thai"), ("ur", "urdu"), ("hr", "croatian"), ("bg", "bulgarian"),
    ("lt", "lithuanian"), ("la", "latin"), ("mi", "maori"), ("ml", "malayalam"), ("cy", "welsh"), ("sk", "slovak"),
    ("te", "telugu"), ("fa", "persian"), ("lv", "latvian"), ("bn", "bengali"), ("sr", "serbian"),
    ("az", "azerbaijani"), ("sl", "slovenian"), ("kn", "kannada"), ("et", "estonian"), ("mk", "macedonian"),
    ("br", "breton"), ("eu", "basque"), ("is", "icelandic"), ("hy", "armenian"), ("ne", "nepali"),
    ("mn", "mongolian"), ("bs", "bosnian"), ("kk", "kazakh"), ("sq", "albanian"), ("sw", "swahili"),
    ("gl", "galician"), ("mr", "marathi"), ("pa", "punjabi"), ("si", "sinhala"), ("km", "khmer"), ("sn", "shona"),
    ("yo", "yoruba"), ("so", "somali"), ("af", "afrikaans"), ("oc", "occitan"), ("ka", "georgian"),
    ("be", "belarusian"), ("tg", "tajik"), ("sd", "sindhi"), ("gu", "gujarati"), ("am", "amharic"), ("yi", "yiddish"),
    ("lo", "lao"), ("uz", "uzbek"), ("fo", "faroese"), ("ht", "haitian creole"), ("ps", "pashto"), ("tk", "turkmen"),
    ("nn", "nynorsk"), ("mt", "maltese"), ("sa", "sanskrit"), ("lb", "luxembourgish"), ("my", "myanmar"),
    ("bo", "tibetan"), ("tl", "tagalog"), ("mg", "malagasy"), ("as", "assamese"), ("tt", "tatar"),
    ("haw", "hawaiian"), ("ln", "lingala"), ("ha", "hausa"), ("ba", "bashkir"), ("jw", "javanese"),
    ("su", "sundanese"), ("yue", "cantonese"),
];

/// Other names, with their codes.
#[rustfmt::skip]
const OTHER_NAMES: [(&str, &str); 12] = [
    ("burmese", "my"), ("valencian", "ca"), ("flemish", "nl"), ("haitian", "ht"), ("letzeburgesch", "lb"),
    ("pushto", "ps"), ("panjabi", "pa"), ("moldavian", "ro"), ("moldovan", "ro"), ("sinhalese", "si"),
    ("castilian", "es"), ("mandarin", "zh"),
];

/// The name of a language by its code.
pub fn language_name(code: &str) -> Option<&'static str> {
    LANGUAGES.iter().find(|(known, _)| *known == code).map(|&(_, name)| name)
}

/// The code of a language by its name or its code, in lower case.
///
/// # Errors
/// [`Error::Input`] for a language that Whisper does not know.
pub fn language_code(language: &str) -> Result<&'static str> {
    let by_name = || LANGUAGES.iter().map(|&(code, name)| (name, code)).chain(OTHER_NAMES);
    let by_code = || LANGUAGES.iter().map(|&(code, _)| (code, code));
    let found = by_name().chain(by_code()).find(|(known, _)| *known == language);
    found.map(|(_, code)| code).ok_or_else(|| {
        let known = by_name().chain(by_code()).map(|(known, _)| known);
        let shown: String = language.chars().take(40).collect();
        let nearest = tx_core::error::nearest(&shown, known).unwrap_or("english");
        Error::input(
            "language",
            format_args!("`{}`", shown.escape_debug()),
            format_args!("a language such as `{nearest}`"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_have_codes_names_and_other_names() {
        assert_eq!(language_name("yue"), Some("cantonese"));
        assert_eq!(language_name("english"), None);
        for (name, code) in [("english", "en"), ("en", "en"), ("castilian", "es"), ("mandarin", "zh")] {
            assert_eq!(language_code(name).unwrap(), code);
        }
        let message = language_code("germen").unwrap_err().to_string();
        assert_eq!(message, "language: `germen`, expected a language such as `german`");
    }
}
