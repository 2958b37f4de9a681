"""The words the tiny base knows: lists by kind, pairs, and facts, all written for this project.

Only plain data and one function that makes a plural. No randomness: `corpus.py` draws from here.
"""

KINDS: dict[str, str] = {
    "animal": """cat dog horse cow sheep goat pig rabbit mouse fox wolf bear lion tiger monkey
        elephant giraffe zebra camel donkey deer squirrel hedgehog otter beaver badger bat whale
        dolphin seal frog toad snake lizard turtle spider snail panda kangaroo koala hamster""",
    "bird": """sparrow robin crow raven eagle hawk owl pigeon dove swan goose duck hen rooster parrot
        penguin ostrich seagull stork swallow""",
    "fish": "salmon trout tuna cod herring shark carp sardine eel mackerel",
    "insect": "bee ant wasp fly butterfly moth beetle cricket mosquito ladybird",
    "fruit": """apple pear plum peach cherry grape lemon lime orange banana mango melon strawberry
        raspberry blueberry apricot fig kiwi pineapple coconut""",
    "vegetable": """carrot potato onion tomato cucumber cabbage lettuce spinach broccoli pea bean
        pumpkin pepper leek radish turnip celery garlic mushroom beetroot""",
    "food": """bread cheese butter rice pasta soup salad pizza sandwich cake pie biscuit egg omelette
        honey jam yoghurt chocolate pancake stew""",
    "drink": "water milk tea coffee juice lemonade beer wine cocoa cider",
    "garment": """shirt coat jacket dress skirt scarf hat cap glove sock shoe boot jumper sweater belt
        tie apron suit sandal trouser""",
    "tool": """hammer saw drill spanner screwdriver axe shovel rake ladder chisel file spade wrench
        knife brush""",
    "instrument": "piano guitar violin drum flute trumpet harp cello clarinet organ",
    "vehicle": """car bus train tram bicycle motorcycle lorry van taxi ship boat ferry plane
        helicopter tractor scooter""",
    "piece of furniture": """table chair sofa bed desk shelf wardrobe cupboard stool bench drawer
        armchair bookcase""",
    "flower": "rose tulip daisy lily violet poppy sunflower orchid daffodil iris",
    "tree": "oak pine birch willow maple elm ash beech cedar palm",
    "metal": "iron gold silver copper tin lead zinc steel aluminium bronze",
    "colour": "red blue green yellow orange purple pink brown black white grey",
    "shape": "circle square triangle rectangle oval star cube sphere cone line",
    "sport": "football tennis golf hockey swimming running rowing boxing cycling skiing",
    "job": """teacher doctor nurse farmer baker butcher driver pilot sailor soldier painter writer
        singer dancer cook waiter plumber electrician carpenter gardener lawyer judge engineer
        scientist dentist tailor miner clerk cashier manager""",
    "country": """France Spain Italy Germany Poland Norway Sweden Finland Greece Turkey Egypt Kenya
        India China Japan Brazil Canada Mexico Peru Chile Ireland Portugal Austria Hungary""",
    "city": """Paris London Rome Madrid Berlin Oslo Lisbon Vienna Prague Warsaw Athens Dublin Cairo
        Tokyo Delhi Boston Chicago Toronto Lima Nairobi Sydney Zurich Geneva Milan Leeds York""",
    "month": """January February March April May June July August September October November
        December""",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "number": """one two three four five six seven eight nine ten eleven twelve thirteen fourteen
        fifteen sixteen seventeen eighteen nineteen twenty""",
    "currency": "dollar euro pound yen franc peso rupee krona zloty lira",
    "device": """phone laptop tablet printer camera television radio keyboard screen speaker headset
        router charger computer watch""",
    "room": "kitchen bathroom bedroom cellar attic hall garage office study nursery",
    "building": """house school church hospital library museum theatre hotel factory castle shop bank
        restaurant station airport tower mill barn""",
    "feeling": "joy anger fear sadness love pride shame surprise hope envy",
    "body part": "head hand foot arm leg nose ear eye mouth knee shoulder finger toe back neck",
}  # fmt: skip
MEMBERS: dict[str, list[str]] = {kind: members.split() for kind, members in KINDS.items()}

NAMES: list[str] = """Anna Ben Carla David Emma Felix Grace Hugo Ida Jack Kate Leo Maria Nina Oscar
    Paul Rosa Sam Tara Victor Wendy Amir Bella Chen Diego Elena Farid Gita Hana Ivan Jana Karim Lena
    Marco Nadia Omar Petra Rita Sven Tomas Uma Vera Yusuf Zoe Alice Boris Clara Daniel Edith Frank
    Helen Igor Julia Kevin Laura Martin Nora Olga Peter Robert Sara Tim Walter Lucy Mary John George
    Arthur Bruno Cecil Doris Eric Fiona Gary Holly Irene Jonas Linda Mia Noah Olivia Priya Quentin
    Ruth Simon Theo Ursula Vincent William Xenia Yara Zara""".split()
SURNAMES: list[str] = """Smith Brown Taylor Wilson Clark Baker Cooper Turner Walker Hill Wood Green
    Moore King Lopez Garcia Silva Rossi Novak Kovacs Jensen Larsen Berg Meyer Weber Fischer Dubois
    Martin Petit Khan Singh Patel Chen Wang Tanaka Sato Kim Park Nguyen Okafor""".split()

OF_COLOUR: dict[str, str] = {
    "the sky": "blue", "grass": "green", "snow": "white", "blood": "red", "coal": "black",
    "a banana": "yellow", "a lemon": "yellow", "a tomato": "red", "an elephant": "grey",
    "milk": "white", "chocolate": "brown", "the sun": "yellow", "a frog": "green",
    "a strawberry": "red", "a raven": "black", "a swan": "white", "the sea": "blue",
    "a carrot": "orange", "a violet": "purple", "a lime": "green", "a cucumber": "green",
    "a crow": "black", "salt": "white", "coffee": "brown", "a pumpkin": "orange", "a leaf": "green",
    "a cherry": "red", "a pig": "pink", "a fox": "red", "a mouse": "grey", "sand": "yellow",
    "a potato": "brown", "rice": "white", "a plum": "purple", "a flamingo": "pink",
    "a sunflower": "yellow", "a bear": "brown", "spinach": "green", "soot": "black", "ash": "grey",
}  # fmt: skip

OPPOSITES: dict[str, str] = dict(
    pair.split("/")
    for pair in """hot/cold big/small fast/slow open/closed new/old full/empty high/low early/late
    light/dark happy/sad rich/poor strong/weak clean/dirty wet/dry loud/quiet hard/soft long/short
    cheap/expensive easy/difficult right/wrong true/false near/far thick/thin wide/narrow young/aged
    up/down left/right in/out on/off yes/no buy/sell give/take start/stop win/lose push/pull
    arrive/leave remember/forget send/receive accept/decline increase/decrease enable/disable
    lock/unlock connect/disconnect approve/reject allow/forbid succeed/fail add/remove save/spend
    lend/borrow deposit/withdraw credit/debit inside/outside before/after always/never public/private
    safe/dangerous valid/invalid correct/incorrect known/unknown possible/impossible sweet/sour
    day/night friend/enemy question/answer profit/loss arrival/departure love/hate first/last
    more/less same/different begin/end find/lose laugh/cry heavy/light sharp/blunt""".split()
)
SYNONYMS: dict[str, str] = dict(
    pair.split("/")
    for pair in """begin/start end/finish big/large small/little quick/fast buy/purchase
    help/assist broken/faulty cancel/stop refund/repayment cost/price fee/charge show/display
    wrong/incorrect lost/missing stolen/taken get/receive send/transmit fix/repair change/modify
    choose/select require/need permit/allow delay/lateness error/mistake problem/issue reply/answer
    parcel/package mail/post purchase/order money/cash worker/employee shop/store trip/journey
    afraid/scared happy/glad sad/unhappy angry/cross rapid/quick gift/present verify/confirm
    limit/maximum rejected/declined unknown/unrecognised twice/double wait/stay close/shut
    clever/smart shout/yell ill/sick speak/talk car/automobile picture/image ask/request
    build/make contain/hold home/house road/street sofa/couch film/movie holiday/vacation
    obtain/get finish/complete frequent/common strange/odd allow/let lift/raise hurry/rush""".split()
)
PAST: dict[str, str] = dict(
    pair.split("/")
    for pair in """go/went come/came see/saw take/took give/gave make/made find/found lose/lost
    buy/bought sell/sold pay/paid send/sent get/got keep/kept leave/left bring/brought think/thought
    say/said tell/told write/wrote read/read run/ran eat/ate drink/drank sleep/slept sit/sat
    stand/stood speak/spoke break/broke choose/chose forget/forgot know/knew grow/grew throw/threw
    fly/flew drive/drove ride/rode sing/sang swim/swam begin/began win/won build/built spend/spent
    lend/lent feel/felt meet/met walk/walked talk/talked ask/asked answer/answered open/opened
    close/closed cancel/cancelled order/ordered receive/received return/returned charge/charged
    decline/declined verify/verified block/blocked change/changed update/updated try/tried
    stop/stopped want/wanted need/needed wait/waited call/called help/helped play/played
    cook/cooked wash/washed clean/cleaned paint/painted dance/danced laugh/laughed""".split()
)
PLURALS: dict[str, str] = {
    "mouse": "mice", "sheep": "sheep", "goose": "geese", "fox": "foxes", "bus": "buses",
    "knife": "knives", "shelf": "shelves", "foot": "feet", "fish": "fish", "deer": "deer",
    "wolf": "wolves", "bench": "benches", "peach": "peaches", "watch": "watches", "church": "churches",
    "brush": "brushes", "wrench": "wrenches", "radish": "radishes", "sandwich": "sandwiches",
    "box": "boxes", "glass": "glasses", "potato": "potatoes", "tomato": "tomatoes", "dress": "dresses",
    "bookcase": "bookcases", "finch": "finches", "ostrich": "ostriches", "mango": "mangoes",
    "salmon": "salmon", "trout": "trout", "cod": "cod", "leaf": "leaves", "loaf": "loaves",
    "child": "children", "man": "men", "woman": "women", "person": "people", "tooth": "teeth",
    "crutch": "crutches", "stork": "storks", "day": "days", "torch": "torches", "toothbrush": "toothbrushes",
}  # fmt: skip

CAPITALS: dict[str, str] = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Germany": "Berlin", "Poland": "Warsaw",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Greece": "Athens",
    "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi", "India": "Delhi", "China": "Beijing",
    "Japan": "Tokyo", "Canada": "Ottawa", "Peru": "Lima", "Ireland": "Dublin", "Portugal": "Lisbon",
    "Austria": "Vienna", "Hungary": "Budapest", "Chile": "Santiago", "Denmark": "Copenhagen",
}  # fmt: skip

ADJECTIVES: list[str] = """small big old young little tall quiet clever brave kind lazy busy happy sad
    hungry tired curious gentle proud shy funny bright dark cold warm soft round heavy light clean
    dirty empty full broken new cheap golden silver wooden lovely strange simple careful friendly
    early late quick slow strong weak sweet fresh dry wet long short deep wide narrow smooth plain
    modern ancient polite honest patient calm noisy lonely famous secret magic ordinary useful
    """.split()
VERBS: list[str] = """likes sees finds carries buys paints draws washes follows counts hides keeps
    wants needs brings watches opens repairs sells holds cleans loves forgets remembers""".split()
PLACES: list[str] = """garden forest river village market kitchen station harbour field meadow hill
    beach island street park school library town mountain valley lake bridge yard farm castle
    """.split()
MISC: list[str] = """stone window door key lamp candle basket bottle cup plate spoon fork bowl book
    pencil paper letter box bag coin ring clock mirror blanket pillow rope button needle ball kite doll
    puzzle umbrella map ticket toy soap towel bucket broom nail wheel bell flag""".split()


def plural(noun: str) -> str:
    """`box` -> `boxes`, `cherry` -> `cherries`, `mouse` -> `mice`."""
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def with_article(noun: str) -> str:
    """`apple` -> `an apple`."""
    vowel = noun[0].lower() in "aeiou" and not noun.startswith(("useful", "euro"))
    return ("an " if vowel else "a ") + noun


COUNTABLE: list[str] = [
    noun
    for kind in ("animal", "bird", "fruit", "garment", "tool", "vehicle", "device", "instrument",
                 "piece of furniture")
    for noun in MEMBERS[kind]
] + MISC  # fmt: skip
