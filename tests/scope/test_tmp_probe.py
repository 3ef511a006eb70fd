def test_x():
    import zoo, replay
