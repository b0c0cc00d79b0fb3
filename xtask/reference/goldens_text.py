"""The texts behind the tokenizer goldens: CORPUS to train on, SAMPLE to tokenize."""

# What the small tokenizers are trained on: lines of many languages, scripts and kinds.
CORPUS = """
The old lighthouse keeper climbs the stairs every evening and lights the lamp before the ships come home.
She was reading a book about the history of the harbour when the telephone rang in the kitchen.
Nobody in the village could remember a winter as cold as this one, with snow on the roofs until April.
We took the early train from London to Paris and had coffee near the station while it was raining.
John works for a small company in Berlin that makes instruments for hospitals and schools.
Maria Rossi moved from Rome to New York in 2011, and her brother Peter stayed in Italy.
My name is Sarah and I live in London with two cats, one dog and a very old piano.
What is the capital of France? The capital of France is Paris, a city on the river Seine.
The river is 777 kilometres long, and it flows through Paris into the sea at Le Havre.
Who wrote the letter? The letter was written by the captain of the ship on the third of May.
He paid 24 dollars and 50 cents for the ticket, which was too much for such a short journey.
This movie is wonderful, the actors are great, and the music is beautiful from start to end.
This film is terrible: the story is boring, the acting is bad and I left before the end.
The food was good but the service was slow, so we will probably not come back to this restaurant.
The scientist measured the temperature of the water three times and wrote the numbers in her notebook.
If the engine makes a strange noise, stop the car, wait ten minutes and call the garage.
Children learn to read by reading, and teachers learn to teach by listening to their children.
The government announced a new law about energy, and the opposition promised to vote against it.
The football team won the game in the last minute and the whole city was singing until midnight.
The bank raised the interest rate by a quarter of a percent, and the market fell at once.
Yesterday the president of the United States met the chancellor of Germany in Washington.
I can't believe it's already over; we'll see you tomorrow, won't we? They're not coming, don't wait.
A bird in the hand is worth two in the bush, but a friend in need is a friend indeed.
Unhappiness, unbelievable, international, communication, information, organisation, responsibility.
Le petit café près de la gare est fermé le dimanche, même pendant l'été; où irons-nous déjeuner ?
L'élève a oublié son cahier à l'école, et sa mère est très fâchée: « C'est déjà la troisième fois ! »
Nous avons mangé des crêpes à la crème fraîche avec du sucre, puis nous sommes allés à la plage.
Der Bäcker öffnet früh am Morgen, und die Straße riecht nach frischem Brot und süßen Brötchen.
Die Universität München veröffentlichte eine größere Untersuchung über Müdigkeit bei Schülern.
El niño comió una manzana en el jardín; mañana irá con su abuela al mercado a comprar piñas.
¿Dónde está la estación de tren más cercana? Está detrás de la iglesia, señor, a cinco minutos.
A menina não quer dormir: amanhã é o dia da excursão ao castelo e o coração dela bate depressa.
Il ragazzo è già partito perché la città è lontana e l'autobus passa soltanto ogni due ore.
Zażółć gęślą jaźń, powiedział nauczyciel, a dzieci śmiały się głośno przez całą przerwę.
Příliš žluťoučký kůň pěl ďábelské ódy, ale nikdo ho v tom lese neslyšel.
İstanbul'da yaşayan kardeşim her sabah vapurla işe gidiyor ve akşam balık ekmek yiyor.
Hôm nay trời đẹp, chúng tôi đi chợ mua cá và rau rồi về nhà nấu cơm cho cả gia đình.
Anh ấy học tiếng Việt ở Hà Nội được hai năm và bây giờ nói rất giỏi.
Старый смотритель маяка каждый вечер поднимается по лестнице и зажигает лампу для кораблей.
Москва — столица России; Санкт-Петербург стоит на реке Неве, а Новосибирск на Оби.
Она читала книгу об истории города, когда в кухне зазвонил телефон.
Київ лежить на Дніпрі, а Львів ближче до польського кордону; їхати туди шість годин.
Ο γέρος φαροφύλακας ανεβαίνει τη σκάλα κάθε βράδυ και ανάβει το φως για τα πλοία.
Η Αθήνα είναι η πρωτεύουσα της Ελλάδας και έχει πολλά μουσεία και ωραίες αγορές.
يصعد حارس المنارة العجوز الدرج كل مساء ويضيء المصباح قبل عودة السفن إلى الميناء.
القاهرة عاصمة مصر، وهي مدينة كبيرة على ضفاف نهر النيل يعيش فيها ملايين الناس.
اَلْكِتَابُ عَلَى الطَّاوِلَةِ وَالْقَلَمُ تَحْتَ الْكُرْسِيِّ.
שומר המגדלור הזקן עולה במדרגות בכל ערב ומדליק את המנורה לפני שהספינות חוזרות.
ירושלים היא עיר עתיקה, ותל אביב היא עיר חדשה על חוף הים התיכון.
बूढ़ा चौकीदार हर शाम सीढ़ियाँ चढ़ता है और जहाज़ों के लौटने से पहले दीपक जलाता है।
दिल्ली भारत की राजधानी है और मुंबई समुद्र के किनारे बसा हुआ एक बड़ा शहर है।
কলকাতা একটি পুরানো শহর এবং ঢাকা বাংলাদেশের রাজধানী।
கடல் கரையில் ஒரு பழைய விளக்கு இருக்கிறது.
คนเฝ้าประภาคารขึ้นบันไดทุกเย็นและจุดตะเกียงก่อนที่เรือจะกลับมา กรุงเทพเป็นเมืองหลวง
老人每天晚上爬上楼梯，在船回来之前点亮灯塔的灯。北京是中国的首都，上海是一个很大的城市。
我们昨天坐火车去了南京，天气很好，大家都很高兴。今天的中文课有三十个学生。
老人每天晚上爬上樓梯，在船回來之前點亮燈塔的燈。臺北是一個很大的城市。
灯台の番人は毎晩階段を上り、船が帰ってくる前にランプに火をともします。東京は日本の首都です。
わたしは昨日、友だちと京都へ行きました。コーヒーを飲みながら、カメラの話をしました。
등대지기는 매일 저녁 계단을 올라가 배가 돌아오기 전에 등불을 켭니다. 서울은 한국의 수도입니다.
우리는 어제 기차를 타고 부산에 갔습니다. 날씨가 아주 좋았습니다.
საქართველოს დედაქალაქი არის თბილისი. Երևանը Հայաստանի մայրաքաղաքն է.
አዲስ አበባ የኢትዮጵያ ዋና ከተማ ናት። ភ្នំពេញ គឺជារដ្ឋធានី។
def add(first, second): return first + second
for index in range(len(values)): total += values[index] * 2
fn main() { let mut count: usize = 0; println!("{count}"); }
if (x == 0 && y != 1) { return array[i]; } else { throw new Error("bad value"); }
SELECT name, price FROM items WHERE price > 10.5 ORDER BY name;
<div class="box"><a href="https://www.example.com/index.html">link</a></div>
https://example.org/path/to/page?query=value&other=1#part user@example.com C:\\data\\file.txt
0 1 2 3 4 5 6 7 8 9 10 11 12 20 25 50 99 100 128 256 500 1000 1024 1999 2000 2020 2024 2025
3.14159 2.71828 1,000,000 12:30 15/08/1947 2024-02-29 +49 30 123456 $19.99 20% 50 € 100 £
Hello! Yes? No. (one) [two] {three} "four" 'five' - six / seven * eight = nine + ten; eleven: twelve
😀 😂 ❤ 👍 🎉 🚀 🔥 ✨ © ® ™ § ¶ • … – — « » “ ” ‘ ’ ← → ∑ √ ∞ ≤ ≥ ≠ ° ½
""".strip().split("\n")

# What every tokenizer is asked to tokenize. Invisible and easily confused characters are written as escapes.
SAMPLE = [
    "The old lighthouse keeper climbs the stairs.",
    "Hello, world! How are you today?",
    "hello HELLO Hello hELLO",
    "I can't believe it's over; we'll see, won't we? They're 'quoted' and don't care.",
    # Accents, composed and decomposed, and letters that change length when lower-cased.
    "Café crème naïve résumé Ångström Øre Straße",
    "Cafe\u0301 cre\u0300me nai\u0308ve re\u0301sume\u0301 A\u030angstro\u0308m",
    "İstanbul ışık I\u0307 DIŞARI \u01c5 ẞ \ufb01sh \ufb03",
    "Zażółć gęślą jaźń, Příliš žluťoučký kůň",
    "Tiếng Việt: được, Tie\u0302\u0301ng Vie\u0323\u0302t",
    "El niño comió una manzana ¿dónde está? ¡Aquí!",
    # Chinese, Japanese, Korean.
    "北京是中国的首都\uff0c上海很大。",
    "我用Python写code\uff0c3天写了100行",
    "龘靐齉 𠀀𪛖 \uf900﨎",
    "東京タワーに行きました。コーヒーを飲みます\uff01",
    "\uff8a\uff9d\uff76\uff78 \uff76\uff9e か\u3099 \uff21\uff22\uff23\uff11\uff12\uff13",
    "서울은 한국의 수도입니다.",
    "\u1109\u1165\u110b\u116e\u11af \u314b\u314b\u314b",
    # Right to left, with and without marks.
    "القاهرة عاصمة مصر، ١٢٣",
    "اَلْكِتَابُ عَلَى الطَّاوِلَةِ \ufefb\ufeab",
    "ירושלים היא עיר בְּרֵאשִׁית",
    # Scripts with combining vowels or without spaces.
    "दिल्ली भारत की राजधानी है। क्षत्रिय",
    "กรุงเทพเป็นเมืองหลวง น้\u0e33",
    "கடல் ঢাকা བོད မြန်မာ",
    # Cyrillic, Greek, Georgian.
    "Москва — столица России; ёлка, и\u0306, Їжак",
    "Η Αθήνα είναι μεγάλη. ΟΔΟΣ Ὠσαννά ΐ",
    "თბილისი ᲗᲑᲘᲚᲘᲡᲘ አዲስ ᎠᎳᎩ",
    # Emoji: skin tone, joined sequences, flags, keycaps, variation selectors.
    "😀 👍🏽 ❤\ufe0f ❤ #\ufe0f\u20e3",
    "👨\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🧑🏿\u200d🚀",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 go🚀go 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    # Marks without a base, stacked marks, letters outside the basic plane.
    "\u0301a \u0301 Z\u0335\u0321\u0322a\u0310\u0311l\u0333g\u0353o\u034e",
    "\U0001d400\U0001d401 𐌰𐌹 \u2460\u2167\u00bd\u00b2 \u212b\u2126 \u3392 \u210c",
    # Code.
    "def add(first, second):\n    return first + second  # sum\n",
    "fn main() {\n\tlet mut count: usize = 0;\n\tprintln!(\"{count:?}\");\n}",
    "if (x==0&&y!=1){return a[i]->b::c<T>();} // TODO: $var @at `tick` ^~|\\",
    "<div class=\"box\">&nbsp;<a href='#top'>top</a></div> <!-- x -->",
    "https://www.example.com/path/to/page.html?query=value&other=%20#part user.name+tag@example.co.uk",
    "3.14159 1,000,000 1e-5 0x7f 12:30 2024-02-29 +49-30/123 $19.99 50% 1234567890123456789",
    "``double'' ''quotes`` “curly” ‘single’ «guillemets» \u2026 -- — –",
    # White space of all kinds.
    "",
    " ",
    "          ",
    "  leading and trailing  ",
    "one  two   three    four",
    "tab\tnewline\ncarriage\r\nreturn\x0bvertical\x0cform",
    "no\u00a0break\u2003em\u3000ideographic\u202fnarrow\u2009thin\u1680ogham\u0085next",
    "zero\u200bwidth\u200cnon\u200djoiner\u2060word\ufeffbom soft\u00adhyphen",
    "line\u2028separator\u2029paragraph \u200eleft\u200fright\u202eoverride\u202c",
    "\n\n\nthree newlines \n \n end\n",
    # Control, private, unassigned and replacement characters.
    "nul\x00 bell\x07 escape\x1b[0m delete\x7f c1\x9f",
    "private\ue000 \U000f0000 unassigned\u0378 replacement\ufffd noncharacter\ufdd0",
    # Special tokens inside the text.
    "The capital of France is [MASK]. [CLS] and [SEP] or [PAD][UNK]",
    "The capital of France is <mask>. <s> and </s> or <pad><unk>",
    "a <mask> b<mask>c  <mask>  [MASK]d \u2581[MASK]\u2581 <|endoftext|> <extra_id_0><extra_id_99>",
    "\u2581underline \u2581\u2581 a\u2581b ##piece # # \u0120byte \u010a",
    # Long words.
    "Donaudampfschifffahrtsgesellschaftskapitän unbelievable internationalisation",
    "a" * 100 + " " + "b" * 101 + " " + "abcdefghij" * 13,
    "na" * 60 + "é" * 20,
    "!!!???...,,,;;;" * 3,
    # Tokens that one folder adds.
    "Paris [ENT] in[ENT]Paris, PARIS paris [ent] Parisian",
]

# Pairs of places in SAMPLE.
PAIRS = [(0, 1), (4, 10), (35, 3), (38, 0), (0, 38), (50, 51), (19, 26)]
