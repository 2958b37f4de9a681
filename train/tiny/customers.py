"""What customers write: things they own or pay for, what goes wrong, and how they say it.

A message is a thing (`kettle`) with an issue (`leaks`) in one of many wordings; its label is the
two together. `[a|b|]` in a wording is a choice, `{x}` the thing. `messages.py` speaks it.
"""

GOODS: dict[str, str] = {
    "household": """kettle toaster fridge freezer oven dishwasher vacuum iron heater fan lamp blender
        mixer microwave cooker boiler mattress curtain carpet wardrobe armchair bookcase tap shower
        mirror saucepan""",
    "electronics": """phone laptop tablet printer camera television speaker headset keyboard monitor
        router charger console drone projector scanner watch earphones cable battery""",
    "fashion": """jacket dress coat scarf shirt trousers jumper boots sandals trainers handbag
        backpack suit belt hat gloves ring necklace sunglasses""",
    "garden": "lawnmower hedge_trimmer barbecue tent hose shed greenhouse parasol wheelbarrow pump",
    "health": "thermometer inhaler wheelchair spectacles hearing_aid bandage vitamins crutches lenses",
    "transport": "bicycle scooter helmet pram car_seat tyre windscreen engine brake saddle",
    "food": "groceries cake vegetables pizza coffee_beans wine_box milk_bottle meal_kit flowers",
}
SERVICES: dict[str, str] = {
    "travel": """flight hotel_room train_ticket ferry cruise rental_car airport_taxi city_tour
        travel_insurance suitcase seat_reservation lounge_pass""",
    "telecom": """broadband phone_contract landline data_plan roaming_pass voicemail sim_swap
        television_package mobile_plan""",
    "leisure": """gym_membership concert_ticket cinema_voucher swimming_lesson dance_class
        library_loan museum_pass restaurant_table season_ticket magazine""",
    "health": """dentist_appointment eye_test prescription vaccination blood_test physiotherapy
        health_check""",
    "home": """plumber_visit cleaning_service electricity_supply gas_supply water_supply
        waste_collection parking_permit home_insurance removal_van boiler_service""",
    "education": "course exam tutor_session certificate workshop school_trip enrolment",
    "finance": """mortgage savings_plan pension loan overdraft car_insurance pet_insurance
        tax_return salary cheque gift_voucher invoice""",
}
SOFTWARE: dict[str, str] = {
    "software": """app website login password newsletter dashboard calendar report backup file_upload
        photo_album playlist chat search_page map widget profile_picture spreadsheet contact_list
        reminder video_call mailbox document_editor plugin licence_key web_shop booking_page
        security_code notification bookmark draft""",
}

OF_GOODS: dict[str, str] = {
    "not_switching_on": """[my|our|the] {x} [does not|will not|doesnt|won't] [turn|switch] on
        {x} is [completely|totally|] dead[, nothing happens|]
        [I press|we press|pressing] the button and the {x} [stays off|does nothing]
        [there is|there's] no [power|life] in [my|the] {x}""",
    "arrived_broken": """the {x} [was|is] [already|] [broken|damaged|cracked|smashed] [when it came|on arrival|in the box]
        [I opened|we opened] the parcel and [found|saw] a [broken|damaged|cracked] {x}
        you [sent|delivered] [me|us] a [damaged|broken|faulty] {x}
        my {x} came [in pieces|with a big crack|with a dent]""",
    "wrong_colour": """I ordered a [red|blue|black|green] {x} [but|and] [got|received] a [white|pink|grey|brown] one
        the {x} is not the [colour|shade] [I chose|I picked|in the picture]
        [why is|how come] the {x} [is|] in [another|the wrong] colour""",
    "wrong_size": """the {x} is [too|much too|far too] [small|big|tight|large] [for me|]
        [my|the] {x} does not fit
        [can I|could I] [swap|exchange] the {x} for a [larger|smaller] size
        I need the {x} [one size|two sizes] [up|down]""",
    "late_parcel": """[where is|where's] [my|the] {x} [I ordered|] [it should be here by now|]
        the {x} [has not|hasn't] [come|been delivered|turned up] [yet|]
        I have [waited|been waiting] [two weeks|ten days|a month|so long] for [my|the] {x}
        [when|what day] will [my|the] {x} [come|be delivered|get here]
        tracking [says|shows] the {x} is still at the depot""",
    "missing_part": """[a|one] [screw|part|piece|handle|cable|lid] [is|was] missing from [my|the] {x}
        the {x} [came|arrived] without [the|its] [cable|manual|lid|bolts]
        [not all|only half] of the {x} was in the box""",
    "how_to_use": """how do [I|you] use [the|this|my] {x}
        [is there|do you have] a [manual|guide|video] for the {x}
        [can you|please] [explain|show me] how [the|this] {x} works
        [I don't understand|I can't work out] [the|this|my] {x}""",
    "how_to_clean": """how [do|should|can] I [clean|wash] [my|the] {x}
        [can|may] the {x} go in the [washing machine|dishwasher]
        what [soap|cleaner] is [safe|best] for [the|a] {x}
        [there is|I have] a [stain|mark] on my {x}""",
    "guarantee": """is [my|the] {x} [still|] under [warranty|guarantee]
        how long is the [warranty|guarantee] on [the|this] {x}
        does the [guarantee|warranty] [cover|include] my {x}
        [I want|I would like] to register [the|my] {x} for the [warranty|guarantee]""",
    "send_back": """[I want|I'd like|we wish] to [send back|return] [my|the|this] {x}
        [how|where] [do|can] I return [a|the|my] {x}
        [please|] take [the|this] {x} back[, I do not want it|]
        the {x} is not for me[, how do I send it back|]""",
    "swap": """[can I|may I|could we] [have|get] a [new|replacement] {x} [please|]
        [please|] replace [my|the] [faulty|old|] {x}
        I want [another|a different] {x} instead of this one""",
    "in_stock": """[do you have|have you got] [the|this|a] {x} [in stock|left]
        when will the {x} be [available|back in stock]
        is [the|this] {x} [sold out|still for sale]
        [I can't find|where can I find] the {x} in your shop""",
    "price": """how much [is|does] [the|this|a] {x} [cost|]
        what [is|would be] the price of [the|a] {x}
        [is there|any] [a|] [discount|sale] on [the|a] {x}
        why is [the|this] {x} so [dear|expensive]""",
    "repair": """[can|could] [you|someone] [fix|repair|mend] my {x}
        how much does it cost to [fix|repair] [a|the|my] {x}
        [where|how] can I get my {x} [fixed|repaired|mended]
        I need spare parts for my {x}""",
    "too_loud": """[my|the] {x} [is|has become] [so|too|very] [noisy|loud]
        [my|the] {x} makes a [strange|terrible|rattling|buzzing] [noise|sound]
        the {x} keeps [humming|buzzing|rattling]""",
    "gets_hot": """[my|the] {x} [gets|becomes|feels] [very|too|really] [hot|warm]
        [my|the] {x} [overheats|overheated] [again|after an hour|]
        I [burned|burnt] my [hand|fingers] on the {x}""",
    "leaks": """[my|the] {x} is [leaking|dripping] [everywhere|all over the floor|]
        [there is|there's] water [coming out of|under] [my|the] {x}
        the {x} [leaks|drips]""",
    "bad_smell": """[my|the] {x} [smells|stinks] [of smoke|awful|funny|]
        [there is|] a [nasty|bad|strange] smell [comes|coming] from [my|the] {x}""",
    "thank_you": """[I|we] [love|adore] [my|the|our] [new|] {x}[, thank you|]
        [thanks|thank you] for the [lovely|great|wonderful] {x}
        the {x} is [perfect|great|just right][, thanks|]
        very [happy|pleased] with [my|the] {x}""",
}
OF_SERVICES: dict[str, str] = {
    "stop_it": """[I want|I'd like|we need] to [cancel|end|stop] [my|our|the] {x}
        [how|where] [do|can] I cancel [my|the|a] {x}
        [please|] cancel the {x} [for me|today|]
        I no longer [need|want] [my|the] {x}""",
    "move_date": """[can|could] I [move|change|shift] [my|the] {x} to [another|a later|an earlier] [day|date]
        I [can't make|have to postpone] [my|the] {x}[, what other dates are there|]
        [please|] [reschedule|rebook] my {x} for [Monday|next week|Friday]
        [my|the] {x} is on the wrong date""",
    "booking": """[I want|I would like|how do I] [to|] [book|arrange|get] [a|the] {x}
        [can|may] I [book|reserve|sign up for] [a|the] {x} [online|by phone|]
        [do you|can you] offer [a|any] {x}
        [is it possible|am I able] to get [a|the] {x} [today|this week]""",
    "no_confirmation": """[I have not|I haven't|we never] [got|received|had] [any|a|the] [email|confirmation|letter] for [my|the] {x}
        is [my|the] {x} [booked|confirmed|arranged]
        [did|has] [my|the] {x} [go|gone] through
        [can you|please] confirm [my|the] {x}""",
    "too_dear": """[my|the] {x} [costs|is] [too much|too expensive|more than before]
        why did the [price|cost] of [my|the] {x} go up
        [my|the] {x} [went|has gone] up [again|this month|without warning]
        is there a cheaper {x}""",
    "billed_again": """[I|we] [paid|was billed|got billed] [for|] [my|the] {x} [two times|twice|again]
        you took [the|] money for [my|the] {x} [two times|twice]
        there are two [bills|payments] for [one|the same] {x}""",
    "money_back": """[I want|can I get|give me] [my money back|a refund|the money back] for [the|my] {x}
        when do I get [my|the] money [back|] for [the|my] {x}
        [please|] refund [the|my] {x}
        [my|the] refund for [the|my] {x} [is missing|has not come]""",
    "rude_staff": """the [person|man|woman|agent] [at|for] [my|the] {x} was [very|so|] [rude|unfriendly|unhelpful]
        [nobody|no one] [helped|listened] when I asked about [my|the] {x}
        I want to complain about the staff at [my|the] {x}""",
    "who_can": """who [can|may] [have|get|use] [a|the] {x}
        [how old|what age] must [you|I|my son] be for [a|the] {x}
        can my [daughter|mother|wife|friend] [use|have|share] [my|the] {x}
        am I [allowed|eligible] to [have|use] [the|a] {x}""",
    "papers_needed": """[what|which] [papers|documents|proof] do [I|you] need for [a|the|my] {x}
        do I [have to|need to] [show|bring|send] [my passport|ID|proof] for [a|the] {x}
        where do I [send|upload] [the|my] documents for [the|my] {x}""",
    "how_long": """how [long|many days] [does|will] [a|the|my] {x} take
        when [does|will] [my|the] {x} [start|begin|be ready]
        [is|are] [my|the] {x} [ready|done|finished] yet
        how [soon|quickly] can I have [a|the|my] {x}""",
    "where_valid": """[where|in which countries] [can|does] [I use|] [my|the] {x} [work|valid|]
        [does|will] [my|the] {x} [work|count|be valid] [abroad|in Spain|in Japan|in other countries]
        is [my|the] {x} [good|valid|accepted] [everywhere|abroad|in Europe]""",
    "problem_with": """[my|the] {x} [is not|isn't|stopped] working [today|since Monday|again|]
        [there is|I have] [something wrong|a problem|an issue] with [my|the] {x}
        [why|how come] [has|did] [my|the] {x} [been|] [failed|gone wrong|stopped]
        [my|the] {x} was [turned down|refused|rejected] [why|]""",
    "never_ordered": """I [never|did not] [ask|asked|sign up] for [a|the|this] {x}
        [there is|I see|what is] [a|this] {x} on my bill [that|] [I do not know|is not mine]
        someone [else|] [ordered|took out] [a|this] {x} in my name""",
}
OF_SOFTWARE: dict[str, str] = {
    "cannot_get_in": """I [can't|cannot|am unable to] [get into|open|access] [my|the] {x}
        [my|the] {x} [says|tells me] access denied
        I am [locked|shut] out of [my|the] {x}
        [my|the] {x} [won't|does not] let me in""",
    "crashes": """[my|the] {x} [keeps crashing|crashes|freezes|hangs] [every time|all the time|]
        [my|the] {x} [closed|shut down] [by itself|suddenly]
        [error|an error] [500|404|message|] [when|each time] I open [my|the] {x}""",
    "slow": """[my|the] {x} is [so|very|really|too] slow
        [my|the] {x} takes [ages|forever|minutes] to load
        why does [my|the] {x} [load|run] so slowly""",
    "install": """how do I [install|download|set up] [the|a|my] {x}
        [where|how] can I [get|download] [the|your] {x}
        [help|] [setting up|installing] [the|my] {x} [please|]""",
    "delete": """[how|where] [do|can] I [delete|remove|erase] [my|the|a] {x}
        [please|] [delete|remove|erase] [my|the] {x}
        I want [my|the] {x} gone [for good|]""",
    "forgot_it": """I [forgot|lost|can't remember|do not remember] [my|the] {x}
        [my|the] {x} [slipped my mind|is lost]
        how do I [reset|recover] [my|the] {x}""",
    "rename": """[how|where] [do|can] I [change|rename|edit] [my|the] {x}
        [I want|I need|I would like] to [update|edit|change] [my|the] {x}
        [my|the] {x} has the wrong name[, how do I fix it|]""",
    "share": """[how|where] [do|can] I share [my|the|a] {x} [with a friend|with my team|]
        can [two|several] people use [one|the same] {x}
        I want my [team|boss|wife] to see [my|the] {x}""",
    "lost_work": """[my|the] {x} [disappeared|vanished|is gone]
        [I lost|we lost] [everything in|all of] [my|the] {x}
        [where did|what happened to] [my|the] {x} [go|]
        can you [bring back|restore|recover] [my|the] {x}""",
    "export": """[how|where] [do|can] I [export|print|save] [my|the] {x}
        I need [my|the] {x} as a [file|PDF|table]
        is there a way to [copy|move] [my|the] {x} [out|to another computer]""",
    "hacked": """[someone|a stranger] [got into|used|has changed|broke into] my {x}
        I think my {x} [was|has been] hacked
        [there is|I see] [strange|suspicious] activity in my {x}
        my {x} is not [safe|secure] any more""",
    "new_feature": """[please|could you|can you] add [dark mode|a search button|more languages] to [the|my] {x}
        [the|your] {x} [should|needs to] have [a|another] [button|option|colour]
        [it would be nice if|I wish] the {x} could [speak|sort|print]""",
    "language": """[can I|how do I] [get|have|see] [my|the] {x} in [French|German|Spanish|Polish|English]
        [my|the] {x} is in the wrong language
        [is|does] the {x} [available in|speak] [Italian|Dutch|Greek]""",
    "too_many_mails": """[my|the] {x} sends [me|] too many [emails|messages|alerts]
        [stop|how do I stop] the [emails|messages|alerts] from [my|the] {x}
        I get [ten|twenty] [emails|alerts] a day from [the|your] {x}""",
    "not_saving": """[my|the] {x} [does not|won't|doesn't] save
        changes [to|in] [my|the] {x} are [not saved|lost]
        I [saved|updated] [my|the] {x} but [it shows the old one|nothing changed]""",
}

FAMILIES: list[tuple[dict[str, list[str]], dict[str, list[str]]]] = [
    (things, {issue: [w.strip() for w in wordings.splitlines()] for issue, wordings in issues.items()})
    for things, issues in (
        ({d: t.split() for d, t in GOODS.items()}, OF_GOODS),
        ({d: t.split() for d, t in SERVICES.items()}, OF_SERVICES),
        ({d: t.split() for d, t in SOFTWARE.items()}, OF_SOFTWARE),
    )
]

OPENINGS: list[str] = """[Hi|Hello|Hey|Good morning|Good evening|Dear team][,|.|!|]
    [Please help|Help|I need help|Can you help me|Urgent|Question|Quick question][.|:|!|?]
    [Sorry to bother you|I hope you can help|I have a question|I am new here][.|,|:]
    [It is me again|Second time I ask|I wrote last week][.|,]""".splitlines()
CLOSINGS: list[str] = """[Thanks|Thank you|Cheers|Many thanks|Kind regards|Best wishes][.|!|]
    [Please reply soon|Please answer today|Can you help|What should I do|What now|Please advise][?|.]
    [I am very angry|This is annoying|I am not happy|I am worried|No rush|I am so confused|It is urgent][.|!]
    """.strip().splitlines()
CONTEXTS: list[str] = """I [bought|ordered|got] it [yesterday|last week|in May|two days ago|online|in your shop].
    I live in {city}[ now|].
    My [name|customer name] is {name}[ {surname}|].
    My [order|customer|reference|booking] number is {number}.
    I [tried|have tried] [again|twice|three times|everything|another browser|a new cable] [but it did not help|with no luck|already].
    It [worked|was fine] [yesterday|last month|until today|before].
    [My wife|My son|A friend|My boss] [has the same problem|told me to ask you|needs it tomorrow].
    I am [travelling|going] to {city} [tomorrow|next week|on {day}].
    I paid {number} {currency} for it.""".splitlines()
