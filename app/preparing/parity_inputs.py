"""The texts that an artefact and its original are compared on. They shape the figures."""

TEXTS = (
    "Great!",
    "No.",
    "I want my money back.",
    "The train leaves at 7:45 from platform 3.",
    "Honestly the best ramen I have had in years, we will be back next week 🍜",
    "Worst customer service ever. Forty minutes on hold, then the line went dead.",
    "It was fine, I suppose. Nothing to write home about.",
    "Can somebody explain why the app logs me out every single morning?",
    "@maria thanks for the quick fix!! you saved my weekend :)",
    "The committee will meet on Tuesday to review the budget for the coming year.",
    "ok",
    "I can't believe they cancelled the show after one season... so disappointed",
    "Water boils at a lower temperature at high altitude because the air pressure is lower.",
    "The screen is gorgeous and the battery lasts two days, but the speakers are tinny and the "
    "camera struggles as soon as the light fades.",
    "Not bad at all, considering how little it cost.",
    "LOL what a game, what a finish, I have lost my voice",
    "Please find attached the invoice for March. Payment is due within thirty days.",
    "Der Zug nach Zürich hat leider zwanzig Minuten Verspätung.",
    "def add(a, b): return a + b  # adds two numbers",
    "My grandmother kept bees. Every August she would let me turn the handle of the extractor, "
    "and the whole kitchen smelled of clover until the first frost. I have never tasted honey "
    "like it since, although I have looked for it in every market that I walk through.",
    "We regret to inform passengers that flight 212 has been delayed by three hours owing to a "
    "technical fault. Vouchers for a meal can be collected at the desk opposite gate 14. "
    "Passengers with connections should speak to a member of staff, who will try to find them "
    "another flight today; where that is not possible, a room for the night will be arranged. We "
    "apologise for the trouble that this causes and thank you for your patience.",
    "I bought this kettle in May and it has been nothing but trouble. First the lid would not "
    "close. Then it started to leak, just a few drops, but enough to trip the fuse one morning "
    "when I was already late. I wrote to the maker twice and had no answer. When I finally "
    "reached somebody by telephone she told me, quite cheerfully, that leaks are not covered. I "
    "have now gone back to a pan on the stove, which has never once let me down, and which cost "
    "me nothing.",
    "Researchers followed nine hundred runners over two seasons and found that those who slept "
    "less than six hours had twice as many injuries as those who slept eight.",
    "whatever, it's not like anyone reads these reviews anyway 🙄",
)

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village at the foot of a mountain,",
    "In 1969, two astronauts",
    "To make a simple tomato soup, first",
    "def fibonacci(n):\n    ",
    "The weather tomorrow will be",
    '"I never said that," she replied, and',
    "The committee published its report on Friday. Among other things it found that the bridge "
    "had not been inspected for eleven years, that two of its cables were badly corroded, and "
    "that the warnings of the engineers had been ignored. The mayor",
)

DOCUMENTS = (
    "The harbour of Lindholm has been closed to large ships since Monday, after divers found "
    "cracks in the wall that protects it from the open sea. The cracks, some of them as long as a"
    " bus, were discovered during a routine inspection that had been put off twice because of "
    "storms. Engineers believe that the winter's unusually high waves washed away the gravel on "
    "which the wall rests. Fishing boats may still come and go, but the ferry to the islands now "
    "leaves from Storvik, forty kilometres to the north. For the eight hundred people who live on"
    " the islands this means a journey of four hours instead of one. The shipping company has "
    "promised a bus that meets every boat. The harbour master, Ingrid Dahl, said that repairs "
    "would begin as soon as the weather allowed, and that she hoped to see the first ferry back "
    "before midsummer. The work is expected to cost eleven million crowns, most of which the "
    "state will pay. Shopkeepers near the quay fear for the season: half of their customers "
    "arrive by boat.",
    "A school in the north of the city has given up homework for a year, and its pupils have done"
    " no worse for it. At the start of the trial, teachers at Ashgrove set aside the last half "
    "hour of each day for what had been done at home until then. Pupils could ask for help while "
    "they worked, and nobody had to go home with a bag full of books. When the results of the "
    "summer examinations came in, they were slightly better than those of the year before in "
    "mathematics and the same in every other subject. Parents, who had been sceptical, were asked"
    " what had changed. Most said that evenings had become calmer. Some missed knowing what their"
    " children were learning. The head teacher, Paul Okafor, is careful not to claim too much. "
    "One year and one school prove nothing, he says, and the older pupils may still need practice"
    " in working alone. The trial will go on for two more years, and three neighbouring schools "
    "are to join it.",
    "Nine years ago nobody in the valley of the Serra had seen a beaver for a century. Then a "
    "pair was released near the old mill, and a second pair a year later. Today there are more "
    "than sixty animals in fourteen families, and the river has changed beyond recognition. Their"
    " dams hold back the water in spring and let it go slowly in the summer, so that the stream "
    "which used to run dry in August now flows all year. Frogs, dragonflies and kingfishers have "
    "come back. Not everybody is pleased. Two farmers have lost fields to flooding, and the "
    "cellar of the mill has been under water three times. The province pays for such damage, but "
    "the forms are long and the money is slow to arrive. Biologists at the university have "
    "counted what the animals are worth: last year's flood, they say, reached the town eleven "
    "hours later than the one of 2008, and stood thirty centimetres lower. Rangers now fit pipes "
    "through the largest dams, which keep the water at a height that both sides can live with.",
    "A museum has returned a bronze bell to the village from which it was taken in 1897. The "
    "bell, which weighs ninety kilograms and carries the figure of a leopard, stood for more than"
    " a hundred years in a hall of its own. Its label said that it had been bought. Letters found"
    " in the museum's cellar in 2019 told another story: soldiers had carried it off as a trophy,"
    " and an officer had sold it on the way home. The village's elders asked for it in the same "
    "year. Lawyers for the museum argued at first that too much time had passed. In the end the "
    "trustees voted eleven to one to give it back, and to pay for its journey. On Saturday, three"
    " thousand people lined the road when the lorry arrived. The bell was rung once, by the "
    "oldest woman in the village, whose grandfather had heard it as a boy. It will hang in a new "
    "house beside the market. A copy, made with the villagers' leave, now stands in the museum, "
    "under a label that tells the whole story.",
    "Astronomers have found a planet that should not exist. It is as large as Jupiter, but the "
    "star that it circles is a dwarf with hardly a tenth of the mass of our Sun. Discs of dust "
    "around such small stars were thought to hold too little material to make a giant. The team, "
    "which used a telescope in Chile and another in space, saw the star grow dimmer by a seventh "
    "every thirty hours, far more than a small planet could explain. To rule out a second star, "
    "they measured how much the dwarf wobbles. The result leaves little doubt. How it came to be "
    "there is another question. It may have formed very early, when the disc was heavier, or have"
    " been captured from elsewhere. Four more candidates are on the team's list.",
)
