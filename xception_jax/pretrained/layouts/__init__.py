"""How each framework names its arrays and orders their axes."""
