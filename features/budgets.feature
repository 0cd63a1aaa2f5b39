Feature: What a tenant and a session may have
  Tokens work for tenants, tenants have budgets, and a conversation is a session that ends by itself.

  Scenario: A budget is told, held back and not overdrawn
    Given a server where `app` has a budget of 120 tokens
    When `app` asks for a task of 20 tokens
    Then it is told how many tokens are left
    And the answer's tokens are off the budget once it is done
    When `app` asks for a task of 200 tokens
    Then the task is refused with BUDGET_EXHAUSTED, which no waiting helps
    And after a restart as much is left as before

  Scenario: The life of a session
    Given a server where sessions have 2 turns
    When `app` takes 2 turns of the session `chat`
    Then the session `chat` of `app` has had 2 turns and holds no memory
    And `other` has no session `chat`
    When `app` takes 1 turn of the session `chat`
    Then the turn is refused with CONFLICT and told to go on in another session
    When `app` deletes the session `chat` twice
    Then both deletions are well and the session `chat` of `app` is gone
    And `app` may take a turn of the session `chat` again
